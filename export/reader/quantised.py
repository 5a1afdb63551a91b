"""A file that is quantised already becomes the float32 graph that it was made from, as far as its numbers tell.

Before::

    x ──► QuantizeLinear ──► DequantizeLinear ──► Conv(DequantizeLinear(W int8), DequantizeLinear(b int32))

After::

    x ──► Conv(W float32, b float32)

Weights keep the values that their integers stand for, so on a weight nothing changes. On an activation the rounding
goes; so does the clipping at the ends of its range, except at zero: quantisers leave a ReLU (or a ReLU6) out where the
pair's range begins at zero, so there a Clip to that range takes the pair's place, unless what is read is never
negative.

Layout operators and maximum pools between a QuantizeLinear and its DequantizeLinear work on integers; they work on the
floats as well, and stay.

Integers of the graph's own, an image of bytes, stay what they are: a DequantizeLinear of them becomes the Cast, Sub and
Mul that it stands for.

Refused: integer arithmetic (QLinearConv, ConvInteger and their kind), and pairs whose two halves differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from radixrt.errors import InputError
from radixrt.export.attention.values import LAYOUT_OPS
from radixrt.export.graph.facts import Signs
from radixrt.export.graph.shapes import Concrete, Sizes, concretise
from radixrt.export.graph.writer import GraphWriter

_CARRIES = LAYOUT_OPS | {"MaxPool"}
_INTEGERS = (
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT4,
    ir.DataType.UINT4,
)
RANGE = ".range"
"""What is put behind a name where a Clip took a pair's place."""
_DYNAMIC = ("ConvInteger", "MatMulInteger", "Dynamic")
_INTEGER_ARITHMETIC = ("QLinear", "QGemm", "QAttention", *_DYNAMIC)


def quantised_arithmetic(op_type: str) -> bool:
    """Whether an operator computes on integers: the operator form of a quantised file, of ONNX or ONNX Runtime."""
    return op_type.startswith(_INTEGER_ARITHMETIC)


def dynamic(op_type: str) -> bool:
    """Whether it is of those whose scales are computed with each input."""
    return op_type.startswith(_DYNAMIC)


def quantised_tensors(model: ir.Model) -> int:
    """How many tensors of a graph are quantised."""
    return sum(node.op_type == "DequantizeLinear" for node in model.graph)


def dequantised(model: ir.Model) -> ir.Model:
    """Returns a copy of a quantised graph in float32; ``model`` is not changed.

    Raises:
        InputError: a node computes on integers, or the two halves of a pair differ.
    """
    model = ir.from_proto(ir.to_proto(model))
    graph = model.graph
    found, signs = concretise(graph, Sizes()), Signs()
    given = _given(graph)
    _check_integers(graph, found, given)
    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        if node.outputs[0] in found.folded:
            _constant(graph, node, found)
        elif node.inputs[0] in given:
            _spell_out(graph, node, found)
        else:
            _check_halves(node, found)
            _replace(graph, node, node.inputs[0])
    for node in [node for node in graph if node.op_type == "QuantizeLinear"]:
        if node.outputs[0] not in found.folded:
            _replace(graph, node, _clipped(graph, node, found, signs))
    for node in graph:
        for value in node.outputs:
            if value.dtype in _INTEGERS and value not in found.folded and value not in given:
                value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def _given(graph: ir.Graph) -> set[ir.Value]:
    """Integers that are an input of the graph, or one of them in another order."""
    given = {value for value in graph.inputs if value.dtype in _INTEGERS}
    for node in graph:
        if node.op_type in _CARRIES and node.inputs[0] in given:
            given.update(node.outputs)
    return given


def _check_integers(graph: ir.Graph, found: Concrete, given: set[ir.Value]) -> None:
    for node in graph:
        for value in node.inputs:
            if value is None or value.dtype not in _INTEGERS or found.constant(value) is not None or value in given:
                continue
            if node.op_type not in _CARRIES and node.op_type != "DequantizeLinear":
                raise InputError(
                    f"node {node.name!r} is a {node.op_type} of integers: quantise in the QDQ form, or compile the "
                    "float network"
                )


def _constant(graph: ir.Graph, node: ir.Node, found: Concrete) -> None:
    old = node.outputs[0]
    array = found.folded[old].astype(np.float32)
    weight = ir.Value(name=f"{old.name}.float32", shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT))
    weight.const_value = ir.tensor(array, name=weight.name)
    graph.register_initializer(weight)
    _replace(graph, node, weight)


def _spell_out(graph: ir.Graph, node: ir.Node, found: Concrete) -> None:
    """Puts ``(float(x) - zero) * scale`` in a DequantizeLinear's place."""
    steps, name = _steps(node, found), node.outputs[0].name
    writer = GraphWriter(graph)
    numbers = writer.op(
        "Cast", node.inputs[:1], f"{name}.cast", {"to": ir.DataType.FLOAT.value}, dtype=ir.DataType.FLOAT
    )
    zero, scale = (np.asarray(number, np.float32) for number in (steps.zero, steps.scale))
    centred = writer.op("Sub", [numbers, writer.constant(zero, f"{name}.zero")], f"{name}.centred")
    scaled = writer.op("Mul", [centred, writer.constant(scale, f"{name}.scale")], f"{name}.scaled")
    writer.insert_before(node)
    _replace(graph, node, scaled)


def _replace(graph: ir.Graph, node: ir.Node, by: ir.Value | None) -> None:
    """Puts ``by`` in the place of what ``node`` makes."""
    assert by is not None
    old = node.outputs[0]
    if old.is_graph_output():  # whose name must stay
        node.op_type, node.domain = "Identity", ""
        node.attributes.clear()
        node.resize_inputs(1)
        node.replace_input_with(0, by)
    else:
        ir.convenience.replace_all_uses_with(old, by)
        graph.remove(node, safe=True)


def _check_halves(node: ir.Node, found: Concrete) -> None:
    """Holds a DequantizeLinear against the QuantizeLinear nodes that its integers come from."""
    pending, seen = [node.inputs[0]], set[ir.Value]()
    while pending:
        value = pending.pop()
        maker = value.producer() if value is not None else None
        if value is None or value in seen or value in found.folded:
            continue
        seen.add(value)
        if maker is not None and maker.op_type == "QuantizeLinear" and _steps(maker, found) == _steps(node, found):
            continue
        if maker is None or maker.op_type not in _CARRIES:
            what = "the input" if maker is None else f"{maker.op_type} {maker.name!r}"
            raise InputError(
                f"DequantizeLinear {node.name!r} reads integers of another scale, or made by {what}: export it in "
                "float32"
            )
        pending += maker.inputs if maker.op_type == "Concat" else maker.inputs[:1]


@dataclass(frozen=True)
class _Steps:
    """The numbers that one half of a tensor's pair counts in."""

    scale: float
    zero: int
    integers: ir.DataType

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number that the pair lets through."""
        signed = self.integers.name.startswith("INT")
        low = -(1 << (self.integers.bitwidth - 1)) if signed else 0
        high = low + (1 << self.integers.bitwidth) - 1
        return (low - self.zero) * self.scale, (high - self.zero) * self.scale


def _steps(node: ir.Node, found: Concrete) -> _Steps:
    scale, zero = found.constant(node.inputs[1]), None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = found.constant(node.inputs[2])
        if zero is None:
            scale = None
    if scale is None or scale.size != 1:
        raise InputError(f"{node.op_type} {node.name!r} has no one constant scale: export the model in float32")
    integers = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    assert integers is not None and integers.dtype is not None
    return _Steps(float(scale.item()), 0 if zero is None else int(zero.item()), integers.dtype)


def _clipped(graph: ir.Graph, node: ir.Node, found: Concrete, signs: Signs) -> ir.Value | None:
    """What a QuantizeLinear reads, held to its range where that begins at zero and the tensor might not."""
    value = node.inputs[0]
    low, high = _steps(node, found).range
    if low != 0.0 or value is None or signs.nonnegative(value):
        return value
    ends = []
    for name, number in (("min", low), ("max", high)):
        end = ir.Value(name=f"{node.outputs[0].name}.{name}", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
        end.const_value = ir.tensor(np.asarray(number, np.float32), name=end.name)
        graph.register_initializer(end)
        ends.append(end)
    clip = ir.node("Clip", [value, *ends], name=f"{node.name}{RANGE}")
    clip.outputs[0].name = f"{node.outputs[0].name}{RANGE}"
    clip.outputs[0].shape, clip.outputs[0].type = value.shape, ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, clip)
    return clip.outputs[0]
