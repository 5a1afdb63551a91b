"""A model and its weights: from a checkpoint, from timm's hub, or random from a fixed seed.

What a name means is :mod:`radixrt.export.source.names`; how a definition becomes a module,
:mod:`radixrt.export.source.definitions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import onnx_ir as ir

from radixrt.errors import InputError
from radixrt.export.graph.shapes import graph_sides
from radixrt.export.reader.sandbox import Foreign, read_foreign
from radixrt.export.sides import HEIGHT_DIM, WIDTH_DIM, Sides
from radixrt.export.source import definitions
from radixrt.export.source.definitions import Definition
from radixrt.export.source.names import KnownModel, ModelRef, known_models, resolve
from radixrt.export.source.outputs import is_flat
from radixrt.export.spec import FileChoice

if TYPE_CHECKING:
    import torch

    from radixrt.export.samples.sample import Sample

__all__ = ["KnownModel", "LoadedModel", "ModelRef", "Weights", "known_models", "load", "resolve"]

_CHANNELS = (1, 3)

Weights = Literal["checkpoint", "pretrained", "random"]


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights.

    Attributes:
        name: short and fit for a folder's name.
        source: its definition.
        weights: where the weights come from. ``random`` weights want BatchNorm statistics
            (:func:`radixrt.export.source.randomise.fit_statistics`), and no accuracy may be claimed for them.
        parameters: how many weights it has.
        module: in eval mode; ``None`` for an ONNX file.
        foreign: the ONNX file's graphs; ``None`` for a module.
        data_config: preprocessing as timm resolves it: input_size, mean, std, crop_pct, crop_mode, interpolation.
        data_said: the names of what the model itself says of its preprocessing; the rest is timm's assumption.
        num_classes: the length of the logits, 0 where the main output is not N x classes.
        labels: the classes' names, where the model knows them.
        photographs: the data set that a sample network is calibrated and judged on.
        characters: what a reader's classes stand for, one a line, where its file carries that, as PaddleOCR's do.
        note: why the weights are what they are, in a few words.
        remarks: a sentence on each thing that is compiled otherwise than the file or the module says.
    """

    name: str
    source: str
    weights: Weights
    parameters: int
    module: torch.nn.Module | None
    foreign: Foreign | None
    data_config: dict[str, Any]
    data_said: frozenset[str]
    num_classes: int
    labels: tuple[str, ...] = ()
    photographs: str = ""
    characters: str = ""
    note: str = ""
    remarks: tuple[str, ...] = ()


def load(
    ref: ModelRef,
    *,
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    pretrained_timeout_s: float = 10.0,
    file: FileChoice | None = None,
) -> LoadedModel:
    """Builds a model with its weights.

    Args:
        ref: the model.
        checkpoint: its weights; the number of classes then comes from its head. Without it: a sample's own weights,
            timm's pretrained ones where its hub answers, else random ones. A home-made factory without a checkpoint
            counts as random.
        num_classes: the number of classes wanted. Pretrained weights of another number are not used: their head would
            be random.
        seed: of the random weights.
        pretrained_timeout_s: how long timm's hub may take to answer.
        file: what an ONNX file leaves open.

    Raises:
        InputError: the definition, the checkpoint or the number of classes cannot be used.
        UnavailableError: the package of the definition is not installed.
    """
    if num_classes is not None and num_classes < 1:
        raise InputError(f"the number of classes must be 1 or more, not {num_classes}")
    if ref.kind == "onnx":
        if checkpoint is not None:
            raise InputError(f"{ref.target} holds its own weights: leave the checkpoint out")
        file = file or FileChoice()
        foreign = read_foreign(Path(ref.target), file)
        return _load_onnx(ref, num_classes, foreign, graph_sides(foreign.graph, file.height, file.width))
    if ref.kind == "sample":
        return _load_sample(ref, checkpoint, num_classes, seed)
    definition = _definition(ref)
    if checkpoint is not None:
        return _load_checkpoint(ref, definition, checkpoint, num_classes)
    note = "no checkpoint was given"
    if ref.kind == "timm":
        from radixrt.export.source.pretrained import load_pretrained

        found = load_pretrained(ref.target, pretrained_timeout_s)
        if isinstance(found, str):
            note = found
        elif num_classes is not None and _classes_of(found) != num_classes:
            note = f"the pretrained weights have {_classes_of(found)} classes, not {num_classes}"
        else:
            return _loaded(ref, found, "pretrained", definition.data_config)
    return _loaded(ref, _random(definition, num_classes, seed), "random", definition.data_config, note=note)


def from_module(module: torch.nn.Module, name: str, data_config: Mapping[str, Any] | None = None) -> LoadedModel:
    """Takes a network that is in memory already, with the weights that it has.

    Args:
        module: maps images (N, C, H, W), normalised, to a tensor or several; it is put into eval mode.
        name: fit for a folder's name.
        data_config: preprocessing as timm names it, where the module has no ``pretrained_cfg``.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    return _loaded(ModelRef(name, "memory", name), module, "checkpoint", data_config or {})


def _definition(ref: ModelRef) -> Definition:
    if ref.kind == "timm":
        return definitions.timm_definition(ref.target)
    if ref.kind == "resnest":
        return definitions.authors_definition(ref.target)
    return definitions.factory_definition(ref.target)


def _load_onnx(ref: ModelRef, num_classes: int | None, foreign: Foreign, sides: Sides | None) -> LoadedModel:
    graph = foreign.graph
    image = next((value for value in graph.graph.inputs if len(value.shape or ()) == 4), graph.graph.inputs[0])
    size, main = image.shape, foreign.simplified.graph.outputs[0].shape
    found = main[1] if main is not None and is_flat(tuple(main)) and isinstance(main[1], int) else 0
    if num_classes not in (None, found):
        raise InputError(f"{ref.target} has {found} classes, not {num_classes}")
    config: dict[str, Any] = {}
    own: dict[str, str] = {}
    free = dict(zip((HEIGHT_DIM, WIDTH_DIM), sides.middle, strict=True)) if sides is not None else {}
    known = [side if isinstance(side, int) else free.get(side.value or "") for side in size or ()][1:]
    if len(known) == 3 and None not in known:
        first, height, last = known
        nhwc = first not in _CHANNELS and last in _CHANNELS
        config["input_size"] = (last, first, height) if nhwc else (first, height, last)
        own = {"layout": "nhwc"} if nhwc else {}
        if image.dtype == ir.DataType.UINT8:
            # What it does to the pixels stands in its graph.
            own["dtype"] = "uint8"
            config |= {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    parameters = sum(
        value.const_value.size for value in graph.graph.initializers.values() if value.const_value is not None
    )
    data_config = _resolve_data_config(config) | own
    return LoadedModel(
        name=ref.name,
        source=ref.source,
        weights="checkpoint",
        parameters=parameters,
        module=None,
        foreign=foreign,
        data_config=data_config,
        data_said=frozenset(config),
        num_classes=found,
        characters=graph.metadata_props.get("character", ""),
        remarks=foreign.remarks,
    )


def _load_sample(ref: ModelRef, checkpoint: Path | None, num_classes: int | None, seed: int) -> LoadedModel:
    from radixrt.export.samples.sample import find

    sample = find(ref.target)
    assert sample is not None
    definition = _sample_definition(sample)
    if checkpoint is not None:
        return _load_checkpoint(ref, definition, checkpoint, num_classes)
    if num_classes not in (None, len(sample.labels)):
        raise InputError(f"{ref.name} has {len(sample.labels)} classes, not {num_classes}")
    loaded = _loaded(ref, sample.load(), "checkpoint", definition.data_config, labels=sample.labels)
    return replace(loaded, photographs=sample.data)


def _sample_definition(sample: Sample) -> Definition:
    return Definition(lambda classes: sample.build(classes or len(sample.labels)), sample.data_config)


def _load_checkpoint(ref: ModelRef, definition: Definition, path: Path, num_classes: int | None) -> LoadedModel:
    from radixrt.export.source.checkpoint import load_weights, read_checkpoint, strip_prefixes

    state = read_checkpoint(path)
    module = definition.build(None)
    state = strip_prefixes(state, module.state_dict().keys())
    head = _head_of(module)
    weight = state.get(f"{head}.weight")
    if weight is not None and weight.ndim >= 1:
        classes = int(weight.shape[0])
        if num_classes not in (None, classes):
            raise InputError(f"checkpoint {path} has {classes} classes in its head ({head}), not {num_classes}")
        if classes != _classes_of(module) and not definition.fixed_classes and classes > 0:
            module = definition.build(classes)
    load_weights(module, state, f"checkpoint {path}")
    return _loaded(ref, module, "checkpoint", definition.data_config)


def _random(definition: Definition, num_classes: int | None, seed: int) -> torch.nn.Module:
    import torch

    from radixrt.export.source.randomise import enliven

    if num_classes is not None and definition.fixed_classes:
        raise InputError("this factory takes no num_classes: leave the number of classes out, or let it take one")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(seed)
        module = definition.build(num_classes)
    enliven(module)
    return module


def _loaded(
    ref: ModelRef,
    module: torch.nn.Module,
    weights: Weights,
    data_config: Mapping[str, Any],
    *,
    labels: tuple[str, ...] = (),
    note: str = "",
) -> LoadedModel:
    from radixrt.export.source.checkpoint import check_finite

    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    check_finite(module, ref.source)
    own = getattr(module, "pretrained_cfg", None) or getattr(module, "data_config", None) or {}
    said = {name: value for name, value in {**own, **data_config}.items() if value is not None}
    return LoadedModel(
        name=ref.name,
        source=ref.source,
        weights=weights,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        module=module,
        foreign=None,
        data_config=_resolve_data_config(said),
        data_said=frozenset(said),
        num_classes=_classes_of(module),
        labels=labels,
        note=note,
    )


def _resolve_data_config(config: Mapping[str, Any]) -> dict[str, Any]:
    from timm.data.config import resolve_data_config

    # An empty configuration would make timm ask for a model.
    resolved: dict[str, Any] = resolve_data_config({}, pretrained_cfg={"input_size": (3, 224, 224), **config})  # type: ignore[no-untyped-call]
    channels = resolved["input_size"][0]
    for key in ("mean", "std"):
        if len(resolved[key]) != channels:
            average = sum(resolved[key]) / len(resolved[key])
            resolved[key] = (average,) * channels
    return resolved


def _head_of(module: torch.nn.Module) -> str:
    """The name of the layer that makes the logits: what timm says, else the last linear layer or convolution."""
    import torch

    names: dict[int, str] = {id(layer): name for name, layer in module.named_modules()}
    if callable(get := getattr(module, "get_classifier", None)):
        head: Any = get()
        head = head[0] if isinstance(head, (tuple, list)) else head
        if id(head) in names and isinstance(head, (torch.nn.Linear, torch.nn.Conv2d)):
            return names[id(head)]
    layers: list[str] = [
        name for name, layer in module.named_modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
    ]
    return layers[-1] if layers else ""


def _classes_of(module: torch.nn.Module) -> int:
    weight = dict(module.named_parameters()).get(f"{_head_of(module)}.weight")
    return int(weight.shape[0]) if weight is not None else 0
