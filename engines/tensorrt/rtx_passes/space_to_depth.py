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

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import array_of, forget, initializer, is_constant
from radixrt.export.graph.equivalence import prove
from radixrt.export.graph.origin import copy_origin, module_of
from radixrt.export.graph.shapes import Concrete
from radixrt.export.passes.conv_shape import ConvShape, read_shape
from radixrt.export.passes.pass_result import PassResult
from radixrt.export.passes.report import Refusal

_FOLD = 2
_MOST_CHANNELS = 4
_PROOF_IMAGES, _PROOF_SIDE = 2, 10  # any even size proves it: the weights do not depend on it


def fold_first_convolution(model: ir.Model) -> PassResult:
    """Folds the image in front of each convolution that reads it. Changes the model in place."""
    changed, worst = False, 0.0
    refused: list[Refusal] = []
    for conv in list(model.graph):
        shape = _match(conv)
        if shape is None:
            continue
        new, weight = _build(model.graph, conv, shape)
        output, image = conv.outputs[0], conv.inputs[0]
        assert image is not None and image.dtype is not None, "checked by _match"
        known = Concrete(shapes={image: (_PROOF_IMAGES, shape.in_channels, _PROOF_SIDE, _PROOF_SIDE)})
        known.types[output] = ir.serde.serialize_type(ir.TensorType(image.dtype))
        proof = prove((conv,), new, (output, new[-1].outputs[0]), known)
        if proof.reason is not None:
            refused.append(Refusal(node=module_of(conv), reason=f"the image stays unfolded: {proof.reason}"))
            for node in new:
                for index in range(len(node.inputs)):
                    node.replace_input_with(index, None)
            forget(model.graph, weight)
            continue
        worst, changed = max(worst, proof.max_abs_err), True
        stale = conv.inputs[1]
        made = new[-1].outputs[0]
        ir.convenience.replace_nodes_and_values(model.graph, conv, [conv], new, [output], [made])
        if stale is not None:
            forget(model.graph, stale)
    return PassResult(changed, refused=tuple(refused), max_abs_err=worst)


def _match(conv: ir.Node) -> ConvShape | None:
    if conv.op_type != "Conv" or conv.domain not in ("", "ai.onnx") or conv.inputs[0] is None:
        return None
    image = conv.inputs[0]
    if (
        not image.is_graph_input()
        or image.dtype is None
        or not all(v is None or is_constant(v) for v in conv.inputs[1:])
    ):
        return None
    shape = read_shape(conv)
    if not isinstance(shape, ConvShape) or shape.height is None or shape.width is None:
        return None
    if shape.groups != 1 or shape.dilation != (1, 1) or shape.stride != (_FOLD, _FOLD):
        return None
    even = shape.height % _FOLD == 0 and shape.width % _FOLD == 0
    return shape if even and shape.in_channels <= _MOST_CHANNELS else None


def _build(graph: ir.Graph, conv: ir.Node, shape: ConvShape) -> tuple[list[ir.Node], ir.Value]:
    image, old, output = conv.inputs[0], conv.inputs[1], conv.outputs[0]
    assert image is not None and old is not None and image.shape is not None, "checked by _match"
    assert shape.height is not None and shape.width is not None, "checked by _match"
    folded, pads = _fold(array_of(old), shape)
    weight = initializer(graph, f"{old.name}.folded", folded)
    size = [shape.in_channels * _FOLD**2, shape.height // _FOLD, shape.width // _FOLD]
    name = conv.name or output.name
    deep = ir.Value(name=f"{name}.image", shape=ir.Shape([image.shape[0], *size]), type=image.type)
    made = ir.Value(name=f"{name}.folded", shape=output.shape, type=output.type)
    nodes = [
        ir.Node("", "SpaceToDepth", [image], [ir.AttrInt64("blocksize", _FOLD)], outputs=[deep], name=f"{name}.fold"),
        ir.node("Conv", [deep, weight, *conv.inputs[2:]], {"pads": list(pads)}, outputs=[made], name=conv.name),
    ]
    for node in nodes:
        copy_origin(conv, node)
    return nodes, weight


def _fold(weight: NDArray[np.generic], shape: ConvShape) -> tuple[NDArray[np.generic], tuple[int, int, int, int]]:
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
    sizes = ((shape.height or 0, top, bottom, shape.kernel[0]), (shape.width or 0, left, right, shape.kernel[1]))
    ends = []
    for (size, before, after, kernel), start, count in zip(sizes, starts, taps, strict=True):
        windows = (size + before + after - kernel) // _FOLD + 1
        ends.append(windows + count - 1 - (size // _FOLD - start))
    return result.reshape(outputs, -1, *taps), (-starts[0], -starts[1], ends[0], ends[1])


def _reach(kernel: int, before: int) -> tuple[int, int]:
    """The first folded row that a kernel touches, relative to its output's, and how many it touches."""
    first, last = -before // _FOLD, (kernel - 1 - before) // _FOLD
    return first, last - first + 1
