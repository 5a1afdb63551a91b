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

Refused: integer arithmetic (QLinearConv, ConvInteger and their kind), and pairs whose two halves differ.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.errors import InputError
from radixrt.export.attention.values import LAYOUT_OPS
from radixrt.export.graph.facts import Signs
from radixrt.export.graph.shapes import Concrete, Sizes, concretise

_CARRIES = LAYOUT_OPS | {"MaxPool"}
_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)
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
    _check_integers(graph, found)
    for node in [node for node in graph if node.op_type == "DequantizeLinear"]:
        if node.outputs[0] in found.folded:
            _constant(graph, node, found)
        else:
            _check_halves(node, found)
            _replace(graph, node, node.inputs[0])
    for node in [node for node in graph if node.op_type == "QuantizeLinear"]:
        if node.outputs[0] not in found.folded:
            _replace(graph, node, _clipped(graph, node, found, signs))
    for node in graph:
        for value in node.outputs:
            if value.dtype in _INTEGERS and value not in found.folded:
                value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def _check_integers(graph: ir.Graph, found: Concrete) -> None:
    for node in graph:
        for value in node.inputs:
            if value is None or value.dtype not in _INTEGERS or found.constant(value) is not None:
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
        if maker is not None and maker.op_type == "QuantizeLinear" and _range(maker, found) == _range(node, found):
            continue
        if maker is None or maker.op_type not in _CARRIES:
            what = "the input" if maker is None else f"{maker.op_type} {maker.name!r}"
            raise InputError(
                f"DequantizeLinear {node.name!r} reads integers of another scale, or made by {what}: export it in "
                "float32"
            )
        pending += maker.inputs if maker.op_type == "Concat" else maker.inputs[:1]


def _range(node: ir.Node, found: Concrete) -> tuple[float, float]:
    """The smallest and the largest number that a tensor's pair lets through."""
    scale, zero = found.constant(node.inputs[1]), None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = found.constant(node.inputs[2])
        if zero is None:
            scale = None
    if scale is None or scale.size != 1:
        raise InputError(f"{node.op_type} {node.name!r} has no one constant scale: export the model in float32")
    limits = np.iinfo(str(np.dtype(np.uint8) if zero is None else zero.dtype))
    offset = 0 if zero is None else int(zero.item())
    return tuple((end - offset) * float(scale.item()) for end in (limits.min, limits.max))  # type: ignore[return-value]


def _clipped(graph: ir.Graph, node: ir.Node, found: Concrete, signs: Signs) -> ir.Value | None:
    """What a QuantizeLinear reads, held to its range where that begins at zero and the tensor might not."""
    value = node.inputs[0]
    low, high = _range(node, found)
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
