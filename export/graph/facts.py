"""What placement and calibration ask of a graph: what is wide, what is never negative, where numbers are made."""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.export.graph.constants import constant

COMMUTING = frozenset(
    {"MaxPool", "Slice", "Split", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
)
"""Operations that move or select values and change none: they commute with quantisation under one scale."""


def commutes(node: ir.Node) -> bool:
    """Whether ``node`` moves, selects or interpolates the values of its first input, so that one scale fits both.

    A cubic Resize is none of these: it overshoots. A Pad is, unless what it pads with lies outside by itself.
    """
    if node.domain:
        return False
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") in ("nearest", "linear")
    if node.op_type == "Pad":
        fill = node.inputs[2] if len(node.inputs) > 2 else None
        number = constant(fill)
        return fill is None or (number is not None and not number.any())
    return node.op_type in COMMUTING


_KEEPS_SIGN = COMMUTING | {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax"}
_POSITIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs"})
GATES = frozenset({"Sigmoid", "HardSigmoid", "Softmax"})
"""Operations whose results lie between 0 and 1."""

_LEAST_OF_SILU, _LEAST_OF_HARD_SWISH = -0.2784646, -0.375
"""Of x * sigmoid(x), at -1.278, and of x * (x + 3) / 6, at -1.5."""


def infer(model: ir.Model) -> ir.Model:
    """Fills in missing shapes and types; placement's rules depend on them."""
    return common.ShapeInferencePass()(model).model


def holds_graphs(node: ir.Node) -> bool:
    """Whether a node has branches or a body of its own, as If and Loop do."""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its branches and bodies included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            for inner in graph:
                yield from reads(inner)
            yield from graph.outputs


def static_dims(value: ir.Value | None) -> tuple[int | None, ...]:
    """The dimensions of a value, None for each that is symbolic; empty where the rank is unknown."""
    if value is None or value.shape is None:
        return ()
    return tuple(d if isinstance(d, int) else None for d in value.shape)


def bytes_of(value: ir.Value) -> int | None:
    """What a tensor of floats takes for one sample, in bytes; None where that is open."""
    dims = static_dims(value)
    if value.shape is None or None in dims[1:]:
        return None
    return math.prod(size or 1 for size in dims) * 4


def is_wide(value: ir.Value | None) -> bool:
    """Whether a value is a feature map: rank 4 or 5 with more than one position in space (or an unknown number)."""
    dims = static_dims(value)
    return len(dims) >= 4 and any(d != 1 for d in dims[-2:])


def is_pooled(value: ir.Value | None) -> bool:
    """Whether a value is a vector per image: rank 2 or 3, or rank 4 and 5 over a 1x1 map."""
    dims = static_dims(value)
    return len(dims) in (2, 3) or (len(dims) >= 4 and all(d == 1 for d in dims[-2:]))


def root_of(value: ir.Value) -> ir.Value:
    """Follows a value back through commuting operations to where its numbers are made."""
    while (node := value.producer()) is not None and commutes(node) and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def reduced_axes(node: ir.Node, rank: int) -> set[int]:
    """The axes of a Reduce operator's first input, of so many, that it names; empty where it names none."""
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = node.attributes.get_ints("axes", ()) if given is None else given.reshape(-1).tolist()
    return {int(axis) % rank for axis in axes}


def made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node that makes a value, where it is such an operator of ONNX's own domain."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and not node.domain else None


def activation_after(value: ir.Value) -> ir.Value:
    """The value after a Relu or Clip that is the only reader of ``value``; ``value`` itself where there is none."""
    readers = value.consumers()
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and not value.is_graph_output():
        return readers[0].outputs[0]
    return value


class Signs:
    """Proves that values are never negative, from the structure of the graph alone.

    Relu, sigmoid and softmax are not negative; moving, pooling, adding and multiplying what is not negative keeps
    it so; ``1 - g`` of a gate g in [0, 1] is not negative; and ``b + g * (a - b)`` lies between a and b (the two-way
    radix attention in its two spellings).
    """

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def nonnegative(self, value: ir.Value) -> bool:
        """Whether no input can make a number of ``value`` negative (rounding of the last bit aside)."""
        key = id(value)
        if key not in self._known:
            self._known[key] = False  # a cycle cannot occur; a deep chain is cut here
            self._known[key] = self._prove(value)
        return self._known[key]

    def _prove(self, value: ir.Value) -> bool:
        const = constant(value)
        if const is not None:
            return bool((const >= 0).all())
        node = value.producer()
        if node is None:
            return False
        if node.op_type in _POSITIVE:
            return True
        if node.op_type == "Clip":
            low = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            return low is not None and float(low) >= 0
        if node.op_type in _KEEPS_SIGN or commutes(node):
            return node.inputs[0] is not None and self.nonnegative(node.inputs[0])
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            return node.inputs[0] is not None and self.nonnegative(node.inputs[0])
        if node.op_type in ("Mul", "Concat", "Max", "Sum"):
            return all(v is not None and self.nonnegative(v) for v in node.inputs)
        if node.op_type == "Add":
            return all(v is not None and self.nonnegative(v) for v in node.inputs) or self._is_blend(node)
        return node.op_type == "Sub" and self._is_complement(node)

    def _is_complement(self, node: ir.Node) -> bool:
        whole, gate = constant(node.inputs[0]), node.inputs[1]
        maker = None if gate is None else root_of(gate).producer()
        return whole is not None and bool((whole >= 1).all()) and maker is not None and maker.op_type in GATES

    def _is_blend(self, node: ir.Node) -> bool:
        for base, product in (node.inputs, reversed(node.inputs)):
            mul = None if product is None else product.producer()
            if base is None or mul is None or mul.op_type != "Mul":
                continue
            for gate, difference in (mul.inputs, reversed(mul.inputs)):
                sub = None if difference is None else difference.producer()
                maker = None if gate is None else root_of(gate).producer()
                if sub is None or maker is None or sub.op_type != "Sub" or maker.op_type not in GATES:
                    continue
                first, second = sub.inputs
                if second is base and first is not None and self.nonnegative(first) and self.nonnegative(base):
                    return True
        return False


def lower_bound(value: ir.Value) -> float | None:
    """A number below which no number of ``value`` lies, as its own maker shows; None where that shows none."""
    node = root_of(value).producer()
    if node is None:
        return None
    if node.op_type == "Clip" and len(node.inputs) > 1 and (low := constant(node.inputs[1])) is not None:
        return float(low)
    if node.op_type == "HardSwish":
        return _LEAST_OF_HARD_SWISH
    if node.op_type != "Mul":
        return None
    for data, gate in (node.inputs, reversed(node.inputs)):
        maker = None if gate is None else gate.producer()
        if data is None or maker is None or maker.op_type not in GATES:
            continue
        if maker.inputs[0] is data and maker.op_type == "Sigmoid":
            return _LEAST_OF_SILU
        if maker.inputs[0] is data and maker.op_type == "HardSigmoid":
            # x * (alpha x + beta) is least at -beta / (2 alpha).
            return -(maker.attributes.get_float("beta", 0.5) ** 2) / (4 * maker.attributes.get_float("alpha", 0.2))
        bound = lower_bound(data)
        return None if bound is None else min(bound, 0.0)
    return None
