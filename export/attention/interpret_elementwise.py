"""The elementwise operators between a pool and its gate that are piecewise linear, read by what they compute.

Part of the recogniser's interpretation. Minimum and maximum, of constants or of several functions of one tensor; clips;
the ReLUs; a hard sigmoid; an absolute value; and a choice by comparison, as Where or as a factor that is zero or one.
All become curves (:mod:`radixrt.export.attention.piecewise`), so a spelling of one function is as good as another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import onnx_ir as ir

from radixrt.export.attention.affine import Affine, Floats
from radixrt.export.attention.piecewise import (
    Curve,
    Curves,
    bent,
    clipped,
    largest,
    plus,
    read,
    select,
    smallest,
    together,
    written,
)
from radixrt.export.attention.values import Abstract, Small
from radixrt.export.graph.shapes import Concrete

Known = dict[ir.Value, Abstract]
Operand = Affine | Floats
_COMPARE = {"Greater": 1, "GreaterOrEqual": 1, "Less": -1, "LessOrEqual": -1}


def elementwise(node: ir.Node, known: Known, found: Concrete) -> list[Small] | None:
    """What ``node`` computes, where it is piecewise linear in one small tensor."""
    first = known.get(node.inputs[0]) if node.inputs and node.inputs[0] is not None else None
    if isinstance(first, Small) and (function := _function(node, found)) is not None:
        return [Small(written(read(first.vector).each(function)), first.dims, batch=first.batch)]
    if node.op_type not in ("Min", "Max", "PRelu"):
        return None
    operands = _operands([v for v in node.inputs if v is not None], known, found)
    if operands is None:
        return None
    dims, parts = operands
    if node.op_type in ("Min", "Max"):
        vector = _extreme(parts, largest if node.op_type == "Max" else smallest)
    else:
        vector = _leaky(parts)
    return None if vector is None else [Small(vector, dims)]


def choice(node: ir.Node, known: Known, found: Concrete) -> list[Small] | None:
    """``Where(condition, a, b)``, or a product with a condition that is cast to a number."""
    if node.op_type == "Where":
        condition, yes, no = node.inputs
    elif node.op_type == "Mul" and (cast := _cast_condition(node)) is not None:
        condition, yes, no = *cast, None
    else:
        return None
    compared = _leaves(condition)
    if compared is None or yes is None:
        return None
    values = [yes, *([no] if no is not None else []), *(v for leaf in compared for v in leaf.inputs if v is not None)]
    operands = _operands(values, known, found)
    if operands is None:
        return None
    dims, parts = operands
    if no is None:
        parts = [parts[0], np.zeros(np.prod(dims, dtype=int)), *parts[1:]]
    common = together(parts)
    if common is None:
        return None
    argument, rows = common
    curves = []
    for yes_curve, no_curve, *sides in zip(*rows, strict=True):
        signs = {
            leaf: plus(left, right.times(-1.0)).times(_COMPARE[leaf.op_type])
            for leaf, left, right in zip(compared, sides[::2], sides[1::2], strict=True)
        }
        curve = select(_test(condition, signs), tuple(signs.values()), yes_curve, no_curve)
        if curve is None:
            return None
        curves.append(curve)
    return [Small(written(Curves(argument, tuple(curves))), dims)]


def _function(node: ir.Node, found: Concrete) -> Callable[[Curve], Curve] | None:
    """The function of an operator with one input that is no constant."""
    number = node.attributes.get_float
    if node.op_type == "Relu":
        return lambda curve: bent(curve, 0.0)
    if node.op_type == "LeakyRelu":
        return lambda curve: bent(curve, number("alpha", 0.01))
    if node.op_type == "Abs":
        return lambda curve: bent(curve, -1.0)
    if node.op_type == "HardSigmoid":
        alpha, beta = number("alpha", 0.2), number("beta", 0.5)
        return lambda curve: clipped(curve.times(alpha, beta), 0.0, 1.0)
    if node.op_type == "Clip" and (bounds := _bounds(node, found)) is not None:
        return lambda curve: clipped(curve, *bounds)
    return None


def _bounds(node: ir.Node, found: Concrete) -> tuple[float, float] | None:
    if "min" in node.attributes or "max" in node.attributes:
        return node.attributes.get_float("min", -np.inf), node.attributes.get_float("max", np.inf)
    ends = []
    for place, default in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[place] if len(node.inputs) > place else None
        array = found.constant(value)
        if value is not None and (array is None or array.size != 1):
            return None
        ends.append(default if array is None else float(array.reshape(())))
    return ends[0], ends[1]


def _operands(
    values: Sequence[ir.Value], known: Known, found: Concrete
) -> tuple[tuple[int, ...], list[Operand]] | None:
    """Small tensors and constants, broadcast against each other; the dims of the result, less the batch."""
    shapes, parts = [], list[Small | Floats]()
    for value in values:
        small, constant = known.get(value), found.constant(value)
        if isinstance(small, Small) and not small.batch and not small.spread:
            shapes.append((1, *small.dims))
            parts.append(small)
        elif constant is not None:
            shapes.append(constant.shape)
            parts.append(constant.astype(np.float64))
        else:
            return None
    try:
        dims = np.broadcast_shapes(*shapes)
    except ValueError:
        return None
    if dims[0] != 1 or not any(isinstance(part, Small) for part in parts):
        return None
    result: list[Operand] = []
    for part in parts:
        if isinstance(part, Small):
            if len(part.dims) + 1 != len(dims):
                return None
            numbers = np.arange(part.vector.size).reshape(part.dims)
            result.append(part.vector.take(np.broadcast_to(numbers, dims[1:]).ravel()))
        else:
            result.append(np.broadcast_to(part, dims).ravel())
    return dims[1:], result


def _extreme(parts: list[Operand], of_two: Callable[[Curve, Curve], Curve]) -> Affine | None:
    common = together(parts)
    if common is None:
        return None
    argument, rows = common
    return written(Curves(argument, tuple(reduce(of_two, element) for element in zip(*rows, strict=True))))


def _leaky(parts: list[Operand]) -> Affine | None:
    vector, slopes = parts
    if not isinstance(vector, Affine) or isinstance(slopes, Affine):
        return None
    curves = read(vector)
    bends = tuple(bent(curve, float(slope)) for curve, slope in zip(curves.curves, slopes, strict=True))
    return written(Curves(curves.argument, bends))


def _cast_condition(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """The condition and the other factor of a product with a condition that is cast to a number."""
    for value, other in (node.inputs, reversed(node.inputs)):
        cast = value.producer() if value is not None else None
        if cast is not None and cast.op_type == "Cast" and cast.inputs[0] is not None and other is not None:
            return cast.inputs[0], other
    return None


def _leaves(condition: ir.Value | None) -> list[ir.Node] | None:
    """The comparisons that a condition is made of, by And, Or and Not."""
    node = condition.producer() if condition is not None else None
    if node is None:
        return None
    if node.op_type in _COMPARE:
        return [node]
    if node.op_type not in ("And", "Or", "Not"):
        return None
    parts = [_leaves(value) for value in node.inputs]
    return None if any(part is None for part in parts) else [leaf for part in parts if part for leaf in part]


def _test(condition: ir.Value | None, signs: dict[ir.Node, Curve]) -> Callable[[float], bool]:
    node = condition.producer() if condition is not None else None
    assert node is not None
    if node in signs:
        return lambda x: signs[node](x) > 0
    tests = [_test(value, signs) for value in node.inputs]
    if node.op_type == "Not":
        return lambda x: not tests[0](x)
    both = all if node.op_type == "And" else any
    return lambda x: both(test(x) for test in tests)
