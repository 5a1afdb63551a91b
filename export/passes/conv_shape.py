"""What a convolution looks like to whoever chooses its form, and the arithmetic of the forms.

A grouped convolution can be written in four ways that are equal in value, because a group reads only its own input
channels and zeros in a weight add nothing:

- ``keep``: as it is;
- ``split``: one dense convolution per group, between a Split and a Concat;
- ``merge``: ``factor`` neighbouring groups become one wider group, whose weight is block diagonal;
- ``dense``: one group, whose weight is block diagonal (``merge`` taken to its end).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FormKind = Literal["keep", "split", "merge", "dense"]


@dataclass(frozen=True)
class Form:
    """One way of writing a grouped convolution; ``factor`` is how many groups ``merge`` puts into one, else 1."""

    kind: FormKind
    factor: int = 1

    def __str__(self) -> str:
        return f"merge x{self.factor}" if self.kind == "merge" else self.kind


KEEP = Form("keep")
SPLIT = Form("split")
DENSE = Form("dense")


@dataclass(frozen=True)
class ConvShape:
    """A 2-D convolution without its values: what decides the speed of its forms.

    Attributes:
        batch: images per run; a dynamic batch is stated by whoever reads the graph.
        in_channels: channels of the input.
        out_channels: channels of the output.
        groups: the ``group`` attribute.
        kernel: height and width.
        stride: vertical and horizontal.
        dilation: vertical and horizontal.
        pads: top, left, bottom, right, in pixels.
        height: of the input, None where the graph leaves it open.
        width: of the input, None where the graph leaves it open.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    height: int | None = None
    width: int | None = None

    @property
    def group_width(self) -> int:
        """Channels of one group: the narrower of its input and output side."""
        return min(self.in_channels, self.out_channels) // self.groups

    @property
    def depthwise(self) -> bool:
        """Each group reads a single channel."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def grouped(self) -> bool:
        """Grouped, and not depthwise: a convolution that has other forms."""
        return self.groups > 1 and not self.depthwise

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Height and width of the output, None where the input's are open."""
        if self.height is None or self.width is None:
            return None
        top, left, bottom, right = self.pads
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return (
            (self.height + top + bottom - spans[0]) // self.stride[0] + 1,
            (self.width + left + right - spans[1]) // self.stride[1] + 1,
        )

    def __str__(self) -> str:
        size = f"{self.height or '?'}x{self.width or '?'}"
        text = f"{self.kernel[0]}x{self.kernel[1]} {self.in_channels}->{self.out_channels} /{self.groups} at {size}"
        if self.stride != (1, 1):
            text += f" stride {self.stride[0]}x{self.stride[1]}"
        if self.dilation != (1, 1):
            text += f" dilation {self.dilation[0]}x{self.dilation[1]}"
        return text if self.batch == 1 else f"{text} batch {self.batch}"


ChooseForm: TypeAlias = Callable[[ConvShape], tuple[Form, str]]
"""Takes a grouped convolution's shape, returns the form it gets and the reason, a clause for the report."""


def merge_factor(shape: ConvShape, width: int) -> int:
    """Returns the smallest number of neighbouring groups that are at least ``width`` channels wide together.

    It divides the number of groups, so it may be all of them (which is ``dense``).
    """
    return next(
        f
        for f in range(1, shape.groups + 1)
        if shape.groups % f == 0 and (f * shape.group_width >= width or f == shape.groups)
    )


def merge_form(shape: ConvShape, width: int) -> Form:
    """Returns the form whose groups are at least ``width`` channels wide."""
    factor = merge_factor(shape, width)
    if factor == 1:
        return KEEP
    return DENSE if factor == shape.groups else Form("merge", factor)


def candidates(shape: ConvShape, widths: tuple[int, ...] = (16, 32, 64)) -> tuple[Form, ...]:
    """Returns the distinct forms worth weighing for a shape, ``keep`` first."""
    if not shape.grouped:
        return (KEEP,)
    return tuple(dict.fromkeys([KEEP, SPLIT, *(merge_form(shape, width) for width in widths), DENSE]))


def block_diagonal(weight: NDArray[Any], groups: int, factor: int) -> NDArray[Any]:
    """Widens a grouped weight so that ``factor`` neighbouring groups become one.

    Args:
        weight: (out, in / groups, kh, kw), of any number of kernel axes and any dtype whose zero is 0.
        groups: the groups it has.
        factor: how many become one; divides ``groups``.

    Returns:
        (out, factor * in / groups, kh, kw), zero outside the blocks.
    """
    out_channels, group_in = weight.shape[:2]
    group_out = out_channels // groups
    wide = np.zeros((out_channels, factor * group_in, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * group_out, (group + 1) * group_out)
        column = group % factor * group_in
        wide[rows, column : column + group_in] = weight[rows]
    return wide


def same_pads(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    """Returns the padding before and after one axis that ``auto_pad`` SAME_UPPER or SAME_LOWER stands for."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def read_shape(node: ir.Node, batch: int = 1) -> ConvShape | str:
    """Reads the shape of a Conv node.

    Args:
        node: a Conv.
        batch: images per run, taken where the graph leaves the batch open.

    Returns:
        The shape, or the reason why it cannot be told.
    """
    data, weight = node.inputs[0], node.inputs[1]
    if data is None or weight is None or weight.shape is None or not weight.shape.is_static():
        return "the weight's shape is not known"
    out_channels, group_in, *kernel = weight.shape.numpy()
    if len(kernel) != 2:
        return f"a {len(kernel)}-D convolution is left as it is"
    groups = node.attributes.get_int("group", 1)
    dims = [d if isinstance(d, int) else None for d in data.shape] if data.shape is not None else []
    images, _, height, width = dims if len(dims) == 4 else (None, None, None, None)
    stride = node.attributes.get_ints("strides", (1, 1))
    dilation = node.attributes.get_ints("dilations", (1, 1))
    pads = node.attributes.get_ints("pads", (0, 0, 0, 0))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        if height is None or width is None:
            return f"auto_pad {auto} of an open size"
        upper = auto == "SAME_UPPER"
        vertical = same_pads(height, kernel[0], stride[0], dilation[0], upper)
        horizontal = same_pads(width, kernel[1], stride[1], dilation[1], upper)
        pads = (vertical[0], horizontal[0], vertical[1], horizontal[1])
    return ConvShape(
        batch=images or batch,
        in_channels=group_in * groups,
        out_channels=out_channels,
        groups=groups,
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        height=height,
        width=width,
    )
