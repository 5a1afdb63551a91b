"""The sides of a file's inputs: fixed where one size was asked for, ``height`` and ``width`` where a range was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from radixrt.errors import InputError, first_line
from radixrt.export.graph.session import onnx_outputs, random_samples
from radixrt.export.sides import HEIGHT_DIM, WIDTH_DIM, SideRange, Sides, Size, Trial, noted, sides_in
from radixrt.export.spec import FileChoice

_IMAGE_RANK = 4
_CHANNELS = (1, 3)


def with_noted(proto: onnx.ModelProto, choice: FileChoice) -> FileChoice:
    """The choice with the ranges that a file of ours notes, where the user named neither ranges nor one size."""
    if choice.input_size is not None:
        return choice
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    height, width = noted(metadata, HEIGHT_DIM), noted(metadata, WIDTH_DIM)
    return replace(choice, height=choice.height or height, width=choice.width or width)


def settle_sides(value: onnx.ValueInfoProto, choice: FileChoice, path: Path) -> None:
    """Gives the free sides of an input those that were asked for.

    Raises:
        InputError: nobody says what a free side is, or the file takes another one.
    """
    sides = value.type.tensor_type.shape.dim
    if not sides:
        raise InputError(f"{path}: input {value.name} has no sides: every input needs a row for each sample")
    known = [side.dim_value if side.HasField("dim_value") and side.dim_value >= 1 else None for side in sides]
    image = len(sides) == _IMAGE_RANK
    given = _given(value.name, known, choice)
    ranges = {}
    if image and value.name not in {spec.name for spec in choice.inputs}:
        ranges = _ranges(known, choice, f"{path}: the image {value.name}")
    if None not in known[1:] and not ranges:
        return
    for place, (side, own) in enumerate(zip(sides, known, strict=True)):
        size = given[place]
        if place in ranges:
            name, asked = ranges[place]
            side.dim_param = name
            if not asked.free:
                side.dim_value = asked.min
        elif place and own is not None and size is not None and own != size:
            raise InputError(f"{path} takes {value.name} of {own} where {size} was asked for: name what it takes")
        elif place and own is None and size is None:
            how, what = f"--input {value.name}=1x64:float32", ""
            if image:
                how = "--input-size 3,320,320, or keep them free with --height 320..960:32 --width 320..960:32"
                what = " (channels, height or width)"
            raise InputError(f"{path} leaves the sides of {value.name} free{what}: name them with {how}")
        elif place and own is None:
            side.dim_value = size


def _given(name: str, known: Sequence[int | None], choice: FileChoice) -> Sequence[int | None]:
    """The sizes that an input was given, None where none was."""
    rank = len(known)
    for spec in (*choice.inputs, *choice.examples):
        if spec.name == name and len(spec.shape) == rank:
            return spec.shape
    if rank != _IMAGE_RANK:
        return (None,) * rank
    last = _channels_last(known)
    if choice.input_size is None:
        # Ranges name the sides alone; most images have three channels.
        return (None, None, None, 3) if last else (None, 3, None, None)
    channels, *size = choice.input_size
    return (None, *size, channels) if last else (None, channels, *size)


def _channels_last(known: Sequence[int | None]) -> bool:
    return known[1] not in _CHANNELS and known[3] in _CHANNELS


def _ranges(known: Sequence[int | None], choice: FileChoice, what: str) -> dict[int, tuple[str, SideRange]]:
    """The axes of an image that ranges were asked for, with their names."""
    first = 1 if _channels_last(known) else 2
    found = {}
    for place, name, asked in ((first, HEIGHT_DIM, choice.height), (first + 1, WIDTH_DIM, choice.width)):
        if asked is None:
            continue
        own = known[place]
        if own is not None and asked != SideRange(own, own):
            raise InputError(
                f"{what} has its {name} of {own} baked in, and --{name} asks for {asked}: export it with a free {name} "
                f"(dynamic_axes or dynamic_shapes of axis {place}), or leave --{name} out"
            )
        found[place] = (name, asked)
    return found


def free_sides(proto: onnx.ModelProto, choice: FileChoice) -> Sides | None:
    """The sides of a file's image that stay free, with their ranges; None where none does."""
    shapes = [[s.dim_value or s.dim_param for s in v.type.tensor_type.shape.dim] for v in proto.graph.input]
    return sides_in(shapes, choice.height, choice.width)


def at_sides(proto: onnx.ModelProto) -> Trial:
    """Runs a graph on one image of a size; what the runtime says of the node that fails is why it cannot."""
    run = onnx_outputs(proto)

    def failure(size: Size) -> str:
        try:
            run(random_samples(proto, 1, size))
        except Exception as error:  # the runtime's own errors
            return first_line(error)
        return ""

    return failure
