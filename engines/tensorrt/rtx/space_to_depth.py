"""The first convolution reads the image folded two by two (TensorRT for RTX).

Before::

    y = Conv(x, W, c, kernel k x k, stride 2, padding p)           x: (N, C, H, W), C at most 4, H and W even

After::

    q = SpaceToDepth(x, 2)                                         (N, 4 C, H/2, W/2)
    y = Conv(q, W', c, stride 1)                                   ceil(k / 2) or one more taps a side

Row ``2 i + u - p`` of the image is row ``i + d`` of fold ``a`` where ``u - p = 2 d + a`` and ``a`` is 0 or 1; so each
tap of W is a tap of W', and the taps of W' that none of W reaches are zero. The builder cannot convolve three channels:
it writes the image again with a fourth that is zero, and lists that zero as a constant of the image's size. Twelve
channels it takes as they are; folding costs nothing, for the image has to be cast and laid out anew in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import array_of, is_constant
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.shapes import Concrete
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import ProvedPass, Rewrite
from radixrt.export.passes.conv_shape import ConvShape, read_shape

_FOLD = 2
_MOST_CHANNELS = 4
_PROOF_IMAGES, _PROOF_SIDE = 2, 10  # any even size proves it: the weights do not depend on it


class SpaceToDepth(ProvedPass):
    """Folds the image in front of each convolution that reads it."""

    refusal = "the image stays unfolded"

    def match(self, node: ir.Node) -> Rewrite | None:
        stem = _match(node)
        if stem is None:
            return None
        sizes = Concrete(shapes={stem.image: (_PROOF_IMAGES, stem.shape.in_channels, _PROOF_SIDE, _PROOF_SIDE)})
        sizes.types[node.outputs[0]] = ir.serde.serialize_type(ir.TensorType(stem.dtype))
        return Rewrite(name=module_of(node), nodes=(node,), write=partial(_write, stem), sizes=sizes)


@dataclass(frozen=True, eq=False)
class _Stem:
    """A convolution of the image: ``size`` is the image's height and width."""

    conv: ir.Node
    image: ir.Value
    dtype: ir.DataType
    weight: ir.Value
    shape: ConvShape
    size: tuple[int, int]


def _match(conv: ir.Node) -> _Stem | None:
    if conv.op_type != "Conv" or conv.domain != "":
        return None
    image, weight, *_ = conv.inputs
    if image is None or not image.is_graph_input() or image.dtype is None:
        return None
    if weight is None or not all(v is None or is_constant(v) for v in conv.inputs[1:]):
        return None
    shape = read_shape(conv)
    if not isinstance(shape, ConvShape) or shape.height is None or shape.width is None:
        return None
    if shape.groups != 1 or shape.dilation != (1, 1) or shape.stride != (_FOLD, _FOLD):
        return None
    if shape.height % _FOLD or shape.width % _FOLD or shape.in_channels > _MOST_CHANNELS:
        return None
    size = (shape.height, shape.width)
    return _Stem(conv=conv, image=image, dtype=image.dtype, weight=weight, shape=shape, size=size)


def _write(stem: _Stem, writer: GraphWriter) -> ir.Value:
    folded, pads = _fold(array_of(stem.weight), stem.shape, stem.size)
    weight = writer.constant(folded, f"{stem.weight.name}.folded")
    name = stem.conv.name or stem.conv.outputs[0].name
    sides = [stem.shape.in_channels * _FOLD**2, *(side // _FOLD for side in stem.size)]
    images = stem.image.shape[0] if stem.image.shape is not None else None
    deep = writer.op(
        "SpaceToDepth",
        [stem.image],
        f"{name}.image",
        {"blocksize": _FOLD},
        shape=ir.Shape([images, *sides]),
        node_name=f"{name}.fold",
        origin=stem.conv,
    )
    return writer.op(
        "Conv", [deep, weight, *stem.conv.inputs[2:]], f"{name}.folded", {"pads": pads}, instead_of=stem.conv
    )


def _fold(
    weight: NDArray[np.generic], shape: ConvShape, size: tuple[int, int]
) -> tuple[NDArray[np.generic], tuple[int, int, int, int]]:
    """The weights for the folded image, and its padding."""
    top, left, bottom, right = shape.pads
    starts, taps = zip(*(_reach(k, p) for k, p in zip(shape.kernel, (top, left), strict=True)), strict=True)
    outputs, channels = weight.shape[:2]
    result = np.zeros((outputs, _FOLD, _FOLD, channels, *taps), weight.dtype)
    for row in range(shape.kernel[0]):
        down, a = divmod(row - top, _FOLD)
        for column in range(shape.kernel[1]):
            across, b = divmod(column - left, _FOLD)
            result[:, a, b, :, down - starts[0], across - starts[1]] = weight[:, :, row, column]
    # The last window ends where the old one did; a row of padding that no window reaches is left out.
    axes = ((size[0], top, bottom, shape.kernel[0]), (size[1], left, right, shape.kernel[1]))
    ends = []
    for (side, before, after, kernel), start, count in zip(axes, starts, taps, strict=True):
        windows = (side + before + after - kernel) // _FOLD + 1
        ends.append(windows + count - 1 - (side // _FOLD - start))
    return result.reshape(outputs, -1, *taps), (-starts[0], -starts[1], ends[0], ends[1])


def _reach(kernel: int, before: int) -> tuple[int, int]:
    """The first folded row that a kernel touches, relative to its output's, and how many it touches."""
    first, last = -before // _FOLD, (kernel - 1 - before) // _FOLD
    return first, last - first + 1
