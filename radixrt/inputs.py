"""What a network takes: as the user says, as its file says, or as the data shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from radixrt.calibration.arrays.source import ArraySource, example_specs
from radixrt.calibration.data.preparation import Preparation
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.engines.bundle.folder import Bundle
from radixrt.errors import InputError
from radixrt.export.source.load import LoadedModel
from radixrt.export.source.module_inputs import ModuleInputs, parameters
from radixrt.export.spec import InputSpec
from radixrt.options import DataOptions, ModelChoice

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AskedInputs:
    """The inputs that the user named, and those that samples of the data, or an earlier bundle, show."""

    given: tuple[InputSpec, ...] = ()
    examples: tuple[InputSpec, ...] = ()


def asked_inputs(choice: ModelChoice, arrays: ArraySource | None, bundle: Bundle | None) -> AskedInputs:
    """What is known of a network's inputs before it is loaded.

    Raises:
        InputError: an option cannot be read, or the data holds no sample.
    """
    written = (choice.input,) if isinstance(choice.input, str) else choice.input
    given = tuple(InputSpec.parse(word) for word in written)
    if bundle is not None and not given:
        tensors = bundle.manifest.inputs
        return AskedInputs(examples=tuple(InputSpec(t.name, (None, *t.shape[1:]), t.dtype) for t in tensors))
    if arrays is None:
        return AskedInputs(given)
    return AskedInputs(given, tuple(example_specs(arrays.example(max(len(given), 2)))))


def asked_size(data: DataOptions) -> tuple[int, int, int] | None:
    """Channels, height and width of the image, where the user chose them.

    Raises:
        InputError: they are no such three numbers.
    """
    if data.input_size is None and data.preprocess is None:
        return None
    # Something must stand where a file of preprocessing says nothing of the size.
    unknown = Preprocess(input_size=(3, 1, 1), mean=(0.5,) * 3, std=(0.5,) * 3)
    chosen = unknown if data.preprocess is None else unknown.with_file(Path(data.preprocess))
    size = chosen.with_overrides(input_size=data.input_size).input_size
    return None if size == unknown.input_size else size


def module_inputs(
    module: torch.nn.Module, asked: AskedInputs, arrays: ArraySource | None, preparation: Preparation | None
) -> ModuleInputs:
    """How a module is called: as the user says, else as the data shows, else with one image.

    Raises:
        InputError: it takes something else.
    """
    needed = parameters(module).needed
    if asked.given:
        return ModuleInputs.of_specs(module, asked.given)
    if arrays is not None:
        return ModuleInputs.of_example(module, arrays.example(max(len(needed), 1)))
    if len(needed) > 1 and len(asked.examples) > 1:
        return ModuleInputs.of_specs(module, asked.examples)
    if len(needed) > 1:
        raise InputError(
            f"the model takes {len(needed)} inputs ({', '.join(needed)}), which images cannot feed: name arrays with "
            "--data (a .npz file with these names), or give each input with --input"
        )
    assert preparation is not None
    return ModuleInputs.image(preparation.values.input_size)


def specs_of(model: LoadedModel, inputs: ModuleInputs | None) -> tuple[InputSpec, ...]:
    """The inputs of a network, in its order; ``inputs`` are a module's."""
    if inputs is not None:
        return inputs.specs
    assert model.foreign is not None
    return tuple(
        InputSpec(
            value.name or "",
            tuple(side if isinstance(side, int) else None for side in value.shape or ()),
            value.dtype.numpy().name if value.dtype is not None else "float32",
        )
        for value in model.foreign.graph.graph.inputs
    )


def image_input(specs: Sequence[InputSpec], what: str) -> str:
    """The name of the input that images go to.

    Args:
        specs: a network's inputs.
        what: the network, to begin a sentence with.

    Raises:
        InputError: it takes something else, or more than that.
    """
    if len(specs) != 1 or not specs[0].is_image:
        raise InputError(
            f"{what} takes {', '.join(map(str, specs))}, which images cannot feed: name arrays with --data, such as a "
            ".npz file whose keys are these names"
        )
    return specs[0].name
