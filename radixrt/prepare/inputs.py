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
from radixrt.export.graph.shapes import graph_sides
from radixrt.export.sides import SideRange, Sides
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
        shapes = {t.name: tuple(None if side == -1 else side for side in t.shape[1:]) for t in tensors}
        return AskedInputs(examples=tuple(InputSpec(t.name, (None, *shapes[t.name]), t.dtype) for t in tensors))
    if arrays is None:
        return AskedInputs(given)
    return AskedInputs(given, tuple(example_specs(arrays.example(max(len(given), 2)))))


@dataclass(frozen=True)
class AskedSides:
    """The ranges of an image's sides that the user named, or that an earlier bundle has; None where nobody did."""

    height: SideRange | None = None
    width: SideRange | None = None

    def of(self, size: tuple[int, int, int]) -> Sides | None:
        """Both sides, those of an image of ``size`` (channels, height, width) where no range was named.

        Returns:
            None where neither is named.
        """
        if self.height is None and self.width is None:
            return None
        _, height, width = size
        return Sides(self.height or SideRange(height, height), self.width or SideRange(width, width))

    def left_free(self, model: LoadedModel, inputs: ModuleInputs | None) -> Sides | None:
        """The sides that a network leaves free, of which the user named one or both; None where it leaves none.

        Args:
            model: the network.
            inputs: a module's, with the sizes of an image.

        Raises:
            InputError: it takes no image.
        """
        if inputs is None:
            assert model.foreign is not None
            return graph_sides(model.foreign.graph, self.height, self.width)
        if self.height is None and self.width is None:
            return None
        image = next((spec for spec in inputs.specs if spec.is_image), None)
        if image is None:
            raise InputError(f"{model.source} takes no image, whose sides --height and --width could leave free")
        sides = self.of(tuple(size or 1 for size in image.shape[1:]))  # type: ignore[arg-type]
        return sides if sides is not None and sides.free else None


def asked_sides(data: DataOptions, bundle: Bundle | None = None) -> AskedSides:
    """The ranges of an image's sides.

    Raises:
        InputError: one cannot be read, or the sides are fixed by another option.
    """
    if data.height is None and data.width is None:
        sides = None if bundle is None or data.input_size is not None else bundle.manifest.sides
        return AskedSides() if sides is None else AskedSides(sides.height, sides.width)
    if data.input_size is not None:
        raise InputError("--input-size fixes the sides that --height and --width leave free: give one or the other")
    return AskedSides(
        *(
            None if text is None else SideRange.parse(text, option)
            for text, option in ((data.height, "--height"), (data.width, "--width"))
        )
    )


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


def specs_of(model: LoadedModel, inputs: ModuleInputs | None, sides: Sides | None = None) -> tuple[InputSpec, ...]:
    """The inputs of a network, in its order; ``inputs`` are a module's, ``sides`` those that its image leaves free."""
    if inputs is not None:
        return inputs.specs
    assert model.foreign is not None
    return tuple(
        InputSpec(
            value.name or "",
            tuple(side if isinstance(side, int) else None for side in value.shape or ()),
            value.dtype.numpy().name if value.dtype is not None else "float32",
            sides if len(value.shape or ()) == 4 else None,
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


def resolve_preprocess(
    model: LoadedModel, choice: ModelChoice, data: DataOptions, bundle: Bundle | None = None
) -> Preparation:
    """What the network says of itself, then the JSON beside the checkpoint, then a JSON the user names, then options.

    ``bundle`` says what of it nobody else does.

    Raises:
        InputError: a value is not one that preprocessing can use.
    """
    found = Preparation.of_network(model.data_config, model.data_said, model.source)
    if choice.checkpoint is not None:
        found = found.beside(Path(choice.checkpoint))
    if data.preprocess is not None:
        found = found.with_file(Path(data.preprocess))
    found = found.with_options(
        input_size=data.input_size,
        mean=data.mean,
        std=data.std,
        crop_pct=data.crop_pct,
        interpolation=data.interpolation,
    )
    if bundle is not None and bundle.manifest.preprocessing is not None:
        found = found.with_bundle(bundle.manifest.preprocessing, bundle.manifest.assumed, bundle.path.name)
    return found
