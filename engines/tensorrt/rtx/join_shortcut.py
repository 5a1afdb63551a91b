"""A block's last convolution and its shortcut's become one convolution (TensorRT for RTX).

Before::

    a = AveragePool(V, 3x3, stride 2)          V: written by generated code, such as a gate times a feature map
    b = AveragePool(x, 2x2, stride 2)
    y = Conv1x1(a; Wa, ca) + Conv1x1(b; Wb, cb)

After::

    y = Conv1x1(Concat(a, b); [Wa Wb], ca + cb)

A sum of two products is one product over the concatenated channels. The shortcut's feature map, which is as wide as
the block's output, is then neither written nor read, and one convolution is left of two. A Concat of tensors that
kernels have written already would be a copy, so this is done only where V comes out of elementwise operators: the
builder generates code for those, and the Concat with both poolings joins it in one kernel, provided that the poolings
are spelled in operators it generates code for. So they are::

    v = Pad(V);   a = sum over i < h, j < w of v[i::stride, j::stride] / (h w)

Each term is divided on its own, so that no sum leaves the range of FP16. A strided 1x1 convolution is a 1x1 convolution
of ``x[::stride, ::stride]``. Both hold where every window counts ``h w`` pixels, the condition of
:mod:`radixrt.export.passes.pool_conv`. Each join is proved before it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import array_of, is_constant
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.shapes import Concrete
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import ProvedPass, Rewrite
from radixrt.export.passes.conv_shape import ConvShape, read_shape
from radixrt.export.passes.pool_conv import check, pair_before

# The algebra does not depend on the image's size: a small one proves it in no time.
_PROOF_IMAGES, _PROOF_SIZE = 2, (3, 2)
_LAST = np.iinfo(np.int64).max
_LARGEST_WINDOW = 9  # pixels; each is a term of the generated sum


class JoinShortcut(ProvedPass):
    """Joins every pair of convolutions that qualifies."""

    refusal = "the shortcut's convolution stays apart"

    def match(self, node: ir.Node) -> Rewrite | None:
        pair = _match(node)
        if pair is None:
            return None
        return Rewrite(
            name=module_of(pair.main.convolution),
            nodes=(*pair.main.nodes, *pair.short.nodes, node),
            write=partial(_write, pair),
            sizes=_at_proof_size(pair, node.outputs[0]),
            prefix=f"{node.name or node.outputs[0].name}.joined",
            origin=pair.main.convolution,
        )


@dataclass(frozen=True, eq=False)
class _Branch:
    """A 1x1 convolution of a feature map that may be averaged or thinned out before.

    Attributes:
        nodes: the pooling, where there is one, and the convolution.
        data: what is averaged.
        dtype: of ``data``.
        window: kernel, stride and padding of the average; 1x1 and the convolution's own stride where there is none.
        weight: of the convolution, (out, in, 1, 1).
        bias: of the convolution, (out,), where it has one.
    """

    nodes: tuple[ir.Node, ...]
    data: ir.Value
    dtype: ir.DataType
    window: ConvShape
    weight: NDArray[Any]
    bias: NDArray[Any] | None

    @property
    def convolution(self) -> ir.Node:
        return self.nodes[-1]

    @property
    def is_plain(self) -> bool:
        return self.window.kernel == (1, 1) and self.window.stride == (1, 1)


@dataclass(frozen=True, eq=False)
class _Pair:
    """The main branch, which generated code writes, and the shortcut."""

    main: _Branch
    short: _Branch


def _match(add: ir.Node) -> _Pair | None:
    if add.op_type != "Add" or add.domain != "":
        return None
    left, right = (_branch(value) for value in add.inputs)
    if left is None or right is None or left.data is right.data:
        return None
    if not _same_shape(left.convolution.outputs[0], right.convolution.outputs[0]):
        return None
    if _is_generated(left.data):
        pair = _Pair(main=left, short=right)
    elif _is_generated(right.data):
        pair = _Pair(main=right, short=left)
    else:
        return None
    # Where the shortcut is neither averaged nor thinned out, its input is written once more: it must be the narrower.
    narrower = pair.short.window.in_channels < pair.short.window.out_channels
    return pair if narrower or not pair.short.is_plain else None


def _branch(value: ir.Value | None) -> _Branch | None:
    convolution = value.producer() if value is not None and len(value.uses()) == 1 else None
    if value is None or convolution is None or value.is_graph_output():
        return None
    if convolution.op_type != "Conv" or convolution.domain != "":
        return None
    data, weight, *rest = convolution.inputs
    if data is None or weight is None or not all(v is None or is_constant(v) for v in (weight, *rest)):
        return None
    window = read_shape(convolution)
    if not isinstance(window, ConvShape) or window.kernel != (1, 1) or window.groups != 1 or any(window.pads):
        return None
    nodes: tuple[ir.Node, ...] = (convolution,)
    pair = pair_before(convolution)
    if pair is not None:
        whole = check(pair)
        if isinstance(whole, str) or window.stride != (1, 1) or whole.conv.dilation != (1, 1):
            return None
        if np.prod(whole.conv.kernel) > _LARGEST_WINDOW:
            return None
        nodes, data, window = (pair.pool, convolution), pair.data, whole.conv
    if data.dtype is None:
        return None
    bias = rest[0] if rest else None
    return _Branch(
        nodes=nodes,
        data=data,
        dtype=data.dtype,
        window=window,
        weight=array_of(weight),
        bias=None if bias is None else array_of(bias),
    )


def _same_shape(left: ir.Value, right: ir.Value) -> bool:
    if left.shape is None or right.shape is None or len(left.shape) != 4 or left.shape != right.shape:
        return False
    return all(isinstance(dim, int) for dim in list(left.shape)[1:])


def _is_generated(value: ir.Value) -> bool:
    """Whether generated code writes a map, for this reader only: a sum or product in which no convolution is fused."""
    producer = value.producer()
    if producer is None or producer.op_type not in ("Add", "Mul") or len(value.uses()) != 1 or value.is_graph_output():
        return False
    makers = [v.producer() for v in producer.inputs if v is not None]
    return not any(maker is not None and maker.op_type in ("Conv", "Gemm", "MatMul") for maker in makers)


def _write(pair: _Pair, writer: GraphWriter) -> ir.Value:
    branches = (pair.main, pair.short)
    main = pair.main.data if pair.main.is_plain else _averaged(pair.main, "main", writer)
    together = writer.op("Concat", [main, _averaged(pair.short, "shortcut", writer)], "maps", {"axis": 1})
    weight = np.concatenate([branch.weight for branch in branches], axis=1)
    inputs = [together, writer.constant(weight, "weight")]
    biases = [branch.bias.astype(np.float64) for branch in branches if branch.bias is not None]
    if biases:
        inputs.append(writer.constant(np.sum(biases, axis=0).astype(weight.dtype), "bias"))
    return writer.op("Conv", inputs, "out", {"kernel_shape": [1, 1]})


def _averaged(branch: _Branch, role: str, writer: GraphWriter) -> ir.Value:
    """The map that the 1x1 convolution reads, in operators that the builder generates code for."""
    (height, width), pads = branch.window.kernel, branch.window.pads
    # Padding stands in front of every slice, even where none is asked for: without it the builder lists the map once
    # for each slice, or copies it into the Concat. What was added at the end is cut off again.
    spare = 0 if any(pads) else 1
    top, left, bottom, right = pads
    edges = writer.integers((0, 0, top, left, 0, 0, bottom + spare, right + spare), f"{role}.edges")
    value = writer.op("Pad", [branch.data, edges], f"{role}.padded")
    axes, steps = writer.integers((2, 3), f"{role}.axes"), writer.integers(branch.window.stride, f"{role}.steps")
    share = writer.constant(np.full((1, 1, 1, 1), 1 / (height * width), branch.dtype.numpy()), f"{role}.share")

    def term(row: int, column: int) -> ir.Value:
        name = f"{role}.{row}_{column}"
        # Ends count from the end, so that a slice is right at every size.
        ends = [at - size + 1 - spare or _LAST for at, size in ((row, height), (column, width))]
        bounds = [writer.integers((row, column), f"{name}.starts"), writer.integers(ends, f"{name}.ends")]
        part = writer.op("Slice", [value, *bounds, axes, steps], name)
        return part if height * width == 1 else writer.op("Mul", [part, share], f"{name}.shared")

    total = term(0, 0)
    for row, column in [(row, column) for row in range(height) for column in range(width)][1:]:
        total = writer.op("Add", [total, term(row, column)], f"{role}.{row}_{column}.sum")
    return total


def _at_proof_size(pair: _Pair, output: ir.Value) -> Concrete:
    concrete = Concrete()
    for branch in (pair.main, pair.short):
        size = (out * step for out, step in zip(_PROOF_SIZE, branch.window.stride, strict=True))
        concrete.shapes[branch.data] = (_PROOF_IMAGES, branch.window.in_channels, *size)
    concrete.types[output] = ir.serde.serialize_type(ir.TensorType(pair.main.dtype))
    return concrete
