"""What the whole compiler agrees on: precisions, batch sizes, and what targets differ in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import TypeAdapter

from radixrt.errors import InputError
from radixrt.export.sides import SideRange, Sides


class Precision(str, Enum):
    """The narrowest type of a deploy graph's convolutions.

    BF16 has no graph of its own: the deploy graph is that of FP32, and the engine rounds what it multiplies.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Reads a precision as a user writes it.

        Raises:
            InputError: the text names no precision.
        """
        try:
            return cls(text.lower())
        except ValueError:
            raise InputError(f"unknown precision {text!r}: choose one of {', '.join(p.value for p in cls)}") from None


class Pairs(str, Enum):
    """What becomes of the Q/DQ pairs of an ONNX file that is quantised already."""

    DROP = "drop"
    KEEP = "keep"


INPUT_TYPES = ("float32", "float16", "uint8", "int32", "int64", "bool")
"""What an input may hold."""


@dataclass(frozen=True)
class InputSpec:
    """An input of a network.

    Attributes:
        name: as the network calls it.
        shape: the first axis is the samples; None stands for a side that is not known.
        dtype: one of :data:`INPUT_TYPES`.
        sides: the sizes of an image whose sides, None in the shape, stay free.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"
    sides: Sides | None = None

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Reads ``NAME=1x3x320x320:float32``; the type may be left out.

        Raises:
            InputError: it is not written so.
        """
        match = re.fullmatch(r"([^=\s]+)=([1-9]\d*(?:x[1-9]\d*)*)(?::(\w+))?", text.strip())
        if match is None or (match[3] or "float32") not in INPUT_TYPES:
            raise InputError(
                f"bad input {text!r}: write NAME=1x3x320x320:float32, of which the type is one of "
                f"{', '.join(INPUT_TYPES)}"
            )
        return cls(match[1], tuple(map(int, match[2].split("x"))), match[3] or "float32")

    @property
    def is_image(self) -> bool:
        """Whether a picture can be fed to it: N x C x H x W, or N x H x W x C, of floats or of bytes."""
        channels = {self.shape[1], self.shape[3]} if len(self.shape) == 4 else set()
        return self.dtype in ("float32", "uint8") and bool(channels & {1, 3, None})

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a sample of a shape, without the axis of the samples, is one of its."""
        own = self.shape[1:]
        if len(shape) != len(own) or any(want not in (None, got) for want, got in zip(own, shape, strict=True)):
            return False
        free = [got for want, got in zip(own, shape, strict=True) if want is None]
        ranges = self.sides.free_ranges if self.sides is not None else ()
        return not ranges or all(size in side for size, side in zip(free, ranges, strict=True))

    def __str__(self) -> str:
        sides = iter(self.sides.free_ranges if self.sides is not None else ())
        said = ["N", *(str(side if side is not None else next(sides, "?")) for side in self.shape[1:])]
        return f"{self.name} ({' x '.join(said)}, {self.dtype})"


@dataclass(frozen=True)
class FileChoice:
    """What a user chooses where an ONNX file leaves it open.

    Attributes:
        batch: the batch that the simplified graph takes; the file's own where absent.
        logits: which of several outputs is the logits.
        input_size: channels, height and width of the image.
        height: the heights of the image that stay free.
        width: the widths that stay free.
        inputs: the shapes of other inputs, which the file must have.
        examples: the shapes of samples, for inputs that the file leaves free.
        opaque: operators of other domains stay as they stand, in a graph that is then never run.
        keep_pairs: a quantised file's own pairs are put back, once its float32 graph was rewritten.
    """

    batch: BatchSpec | None = None
    logits: str | None = None
    input_size: tuple[int, int, int] | None = None
    height: SideRange | None = None
    width: SideRange | None = None
    inputs: tuple[InputSpec, ...] = ()
    examples: tuple[InputSpec, ...] = ()
    opaque: bool = False
    keep_pairs: bool = False

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> FileChoice:
        """What ``dataclasses.asdict`` made of one, behind JSON."""
        return TypeAdapter(cls).validate_python(fields)


@dataclass(frozen=True)
class BatchSpec:
    """The batch sizes that an engine accepts: ``min`` to ``max``; a static batch where they are equal."""

    min: int = 1
    max: int = 1

    @property
    def dynamic(self) -> bool:
        return self.min != self.max

    @property
    def opt(self) -> int:
        """The batch size an engine is tuned for: the largest."""
        return self.max

    @classmethod
    def parse(cls, text: str) -> BatchSpec:
        """Reads ``8`` or ``1..8``.

        Raises:
            InputError: the text is neither, or the range is empty.
        """
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text.strip())
        if match is None:
            raise InputError(f"bad batch {text!r}: write one size (8) or a range (1..8)")
        low = int(match[1])
        high = int(match[2] or low)
        if not 1 <= low <= high:
            raise InputError(f"bad batch {text!r}: sizes start at 1 and the first must not exceed the second")
        return cls(low, high)

    def __str__(self) -> str:
        return f"{self.min}..{self.max}" if self.dynamic else str(self.min)


class Int8Outputs(str, Enum):
    """Which outputs of INT8 layers a target wants quantised.

    ``NONE``: its INT8 layers write floats. ``EPILOGUE``: it fuses an Add into the convolution before it, so the Add's
    other input is quantised instead of that convolution's output, and what only feeds pooling stays float. ``ALL``: a
    layer runs in INT8 only where its output is quantised right behind it.
    """

    NONE = "none"
    EPILOGUE = "epilogue"
    ALL = "all"


@dataclass(frozen=True)
class Traits:
    """What distinguishes a target's engines; placement and the rewriter read these and never a target's name.

    Attributes:
        title: the engine's name in sentences of the report.
        int8_outputs: which outputs of INT8 layers are quantised.
        full_range_u8: tensors that are never negative get u8 with zero point 0 and all 256 levels, twice as fine as
            the upper half of s8.
        weights_in_pairs: kernels add two products of u8 activations in 16 bits on some processors, so weights fit that.
        zero_points: kernels take any zero point of an activation at no cost, so a tensor's range is as it was seen and
            not the same on both sides of 0.
        int8_between: products, sums, gates and global pooling between INT8 layers have INT8 kernels, and so have layers
            of pooled vectors.
        int8_transposed: transposed convolutions have INT8 kernels.
        group_multiple: INT8 kernels exist only for groups whose width is a multiple of this.
        weights_per_output: an INT8 layer pays only with at least so many weights for each element that it writes.
        half_outside_int8: what an INT8 graph leaves in float is FP16, not FP32.
        cpu: engines compute on processors: their layers can be profiled wherever they run, an FP32 engine stands beside
            an INT8 one in a report, and FP16 arithmetic is FP32's.
        compiled: an engine holds code for one system, library version and device; others open wherever their library
            does.
    """

    title: str
    int8_outputs: Int8Outputs = Int8Outputs.ALL
    full_range_u8: bool = False
    weights_in_pairs: bool = False
    zero_points: bool = False
    int8_between: bool = False
    int8_transposed: bool = True
    group_multiple: int = 1
    weights_per_output: int = 0
    half_outside_int8: bool = False
    cpu: bool = True
    compiled: bool = False
