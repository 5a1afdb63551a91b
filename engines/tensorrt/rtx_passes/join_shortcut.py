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

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import array_of, forget, is_constant
from radixrt.export.graph.equivalence import prove
from radixrt.export.graph.origin import copy_origin, module_of
from radixrt.export.graph.shapes import Concrete
from radixrt.export.passes.conv_shape import ConvShape, read_shape
from radixrt.export.passes.pass_result import PassResult
from radixrt.export.passes.pool_conv import check
from radixrt.export.passes.report import Refusal

# The algebra does not depend on the image's size: a small one proves it in no time.
_PROOF_IMAGES, _PROOF_SIZE = 2, (3, 2)
_LAST = np.iinfo(np.int64).max
_LARGEST_WINDOW = 9  # pixels; each is a term of the generated sum


@dataclass(frozen=True, eq=False)
class _Branch:
    """A 1x1 convolution of a feature map that may be averaged or thinned out before.

    Attributes:
        nodes: the pooling, where there is one, and the convolution.
        data: what is averaged.
        window: kernel, stride and padding of the average; 1x1 and the convolution's own stride where there is none.
    """

    nodes: tuple[ir.Node, ...]
    data: ir.Value
    window: ConvShape

    @property
    def convolution(self) -> ir.Node:
        return self.nodes[-1]

    @property
    def has_bias(self) -> bool:
        return len(self.convolution.inputs) > 2 and self.convolution.inputs[2] is not None

    def parameter(self, index: int) -> ir.Value:
        """The convolution's weight (1) or bias (2), which it has."""
        value = self.convolution.inputs[index]
        assert value is not None, "checked by the caller"
        return value

    @property
    def is_plain(self) -> bool:
        return self.window.kernel == (1, 1) and self.window.stride == (1, 1)


@dataclass
class _Writer:
    """The nodes of one joined convolution, and its constants."""

    prefix: str
    type: ir.TypeProtocol | None
    origin: ir.Node
    nodes: list[ir.Node] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)

    def op(self, op_type: str, inputs: list[ir.Value], role: str, **attributes: int | list[int]) -> ir.Value:
        value = ir.Value(name=f"{self.prefix}.{role}", type=self.type)
        node = ir.node(op_type, inputs, attributes, outputs=[value], name=f"{self.prefix}.{role}")
        copy_origin(self.origin, node)
        self.nodes.append(node)
        return value

    def constant(self, array: np.ndarray, role: str) -> ir.Value:
        name = f"{self.prefix}.{role}"
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.constants.append(value)
        return value

    def integers(self, numbers: tuple[int, ...], role: str) -> ir.Value:
        return self.constant(np.asarray(numbers, np.int64), role)


def join_shortcut(model: ir.Model) -> PassResult:
    """Joins every pair of convolutions that qualifies. Changes the model in place."""
    changed, worst = False, 0.0
    refused: list[Refusal] = []
    for add in list(model.graph):
        pair = _match(add)
        if pair is None:
            continue
        main, short = pair
        writer = _build(main, short, f"{add.name or add.outputs[0].name}.joined")
        before = (*main.nodes, *short.nodes, add)
        proof = prove(before, writer.nodes, (add.outputs[0], writer.nodes[-1].outputs[0]), _small(main, short, add))
        if proof.reason is not None:
            reason = f"the shortcut's convolution stays apart: {proof.reason}"
            refused.append(Refusal(node=module_of(main.convolution), reason=reason))
            _detach(writer.nodes)
            continue
        worst, changed = max(worst, proof.max_abs_err), True
        _replace(model.graph, before, add, writer)
    return PassResult(changed, refused=tuple(refused), max_abs_err=worst)


def _match(add: ir.Node) -> tuple[_Branch, _Branch] | None:
    """The main branch, which generated code writes, and the shortcut."""
    if add.op_type != "Add" or add.domain not in ("", "ai.onnx"):
        return None
    branches = [_branch(value) for value in add.inputs]
    if len(branches) != 2 or branches[0] is None or branches[1] is None:
        return None
    left, right = branches[0], branches[1]
    if not _same_shape(left.convolution.outputs[0], right.convolution.outputs[0]) or left.data is right.data:
        return None
    if _is_generated(left.data):
        main, short = left, right
    elif _is_generated(right.data):
        main, short = right, left
    else:
        return None
    # Where the shortcut is neither averaged nor thinned out, its input is written once more: it must be the narrower.
    narrower = short.window.in_channels < short.window.out_channels
    return (main, short) if narrower or not short.is_plain else None


def _branch(value: ir.Value | None) -> _Branch | None:
    convolution = value.producer() if value is not None and len(value.uses()) == 1 else None
    if value is None or convolution is None or value.is_graph_output() or convolution.op_type != "Conv":
        return None
    if convolution.domain not in ("", "ai.onnx") or not all(
        v is None or is_constant(v) for v in convolution.inputs[1:]
    ):
        return None
    point = read_shape(convolution)
    data = convolution.inputs[0]
    if not isinstance(point, ConvShape) or data is None or data.dtype is None:
        return None
    if point.kernel != (1, 1) or point.groups != 1 or any(point.pads):
        return None
    pool = data.producer()
    if pool is None or pool.op_type != "AveragePool":
        return _Branch((convolution,), data, point)
    whole = check(pool, convolution)
    if isinstance(whole, str) or point.stride != (1, 1) or whole.conv.dilation != (1, 1):
        return None
    if np.prod(whole.conv.kernel) > _LARGEST_WINDOW or pool.inputs[0] is None or pool.inputs[0].dtype is None:
        return None
    return _Branch((pool, convolution), pool.inputs[0], whole.conv)


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


def _build(main: _Branch, short: _Branch, prefix: str) -> _Writer:
    writer = _Writer(prefix, main.convolution.outputs[0].type, main.convolution)
    maps = [_averaged(branch, role, writer) for branch, role in ((main, "main"), (short, "shortcut"))]
    together = writer.op("Concat", maps, "maps", axis=1)
    weight = np.concatenate([array_of(branch.parameter(1)) for branch in (main, short)], axis=1)
    inputs = [together, writer.constant(weight, "weight")]
    biases = [array_of(b.parameter(2)).astype(np.float64) for b in (main, short) if b.has_bias]
    if biases:
        inputs.append(writer.constant(np.sum(biases, axis=0).astype(weight.dtype), "bias"))
    writer.op("Conv", inputs, "out", kernel_shape=[1, 1])
    return writer


def _averaged(branch: _Branch, role: str, writer: _Writer) -> ir.Value:
    """The map that the 1x1 convolution reads, in operators that the builder generates code for."""
    (height, width), pads = branch.window.kernel, branch.window.pads
    if branch.is_plain and role == "main":
        return branch.data
    # Padding stands in front of every slice, even where none is asked for: without it the builder lists the map once
    # for each slice, or copies it into the Concat. What was added at the end is cut off again.
    spare = 0 if any(pads) else 1
    top, left, bottom, right = pads
    edges = writer.integers((0, 0, top, left, 0, 0, bottom + spare, right + spare), f"{role}.edges")
    value = writer.op("Pad", [branch.data, edges], f"{role}.padded")
    axes, steps = writer.integers((2, 3), f"{role}.axes"), writer.integers(branch.window.stride, f"{role}.steps")
    assert value.dtype is not None, "checked by _branch"
    share = writer.constant(np.full((1, 1, 1, 1), 1 / (height * width), value.dtype.numpy()), f"{role}.share")
    total: ir.Value | None = None
    for row in range(height):
        for column in range(width):
            name = f"{role}.{row}_{column}"
            # Ends count from the end, so that a slice is right at every size.
            ends = tuple(at - size + 1 - spare or _LAST for at, size in ((row, height), (column, width)))
            bounds = [writer.integers((row, column), f"{name}.starts"), writer.integers(ends, f"{name}.ends")]
            part = writer.op("Slice", [value, *bounds, axes, steps], name)
            if height * width > 1:
                part = writer.op("Mul", [part, share], f"{name}.shared")
            total = part if total is None else writer.op("Add", [total, part], f"{name}.sum")
    assert total is not None, "a window has a pixel"
    return total


def _small(main: _Branch, short: _Branch, add: ir.Node) -> Concrete:
    known = Concrete()
    for branch in (main, short):
        window = branch.window
        size = tuple(out * step for out, step in zip(_PROOF_SIZE, window.stride, strict=True))
        known.shapes[branch.data] = (_PROOF_IMAGES, window.in_channels, *size)
    dtype = main.data.dtype
    assert dtype is not None, "checked by _match"
    known.types[add.outputs[0]] = ir.serde.serialize_type(ir.TensorType(dtype))
    return known


def _replace(graph: ir.Graph, before: tuple[ir.Node, ...], add: ir.Node, writer: _Writer) -> None:
    for value in writer.constants:
        if value.uses():
            graph.register_initializer(value)
    old, new = add.outputs[0], writer.nodes[-1].outputs[0]
    new.shape, new.type = old.shape, old.type
    stale = [value for node in before if node.op_type == "Conv" for value in node.inputs[1:] if value is not None]
    ir.convenience.replace_nodes_and_values(graph, add, [add], writer.nodes, [old], [new])
    for node in reversed(before[:-1]):
        if not any(value.uses() for value in node.outputs):
            graph.remove(node, safe=True)
    for value in stale:
        forget(graph, value)


def _detach(nodes: list[ir.Node]) -> None:
    """Takes nodes that were only tried out of their inputs' readers."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
