"""Counts the ways from one INT8 layer to the next that leave INT8 in between.

A tensor enters INT8 again at a point (a Q/DQ pair). Going back from there, these do not leave INT8, because engines
compute them on integers or inside a convolution's epilogue: the layer itself with its activation, operations that
only move values, pooling of a point, an Add or a Concat of points and layers, and, where the target has kernels for
them, a Mul or a gate of points. Anything else between two INT8 layers is a float round trip. The product of a feature
map with its gate is one by design, and is marked so.
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.calibration.placement.decision import Decision
from radixrt.calibration.placement.options import RoundTrip
from radixrt.export.graph.facts import GATES, commutes, is_wide

_ACTIVATIONS = frozenset({"Relu", "Clip"})


def round_trips(decision: Decision) -> tuple[RoundTrip, ...]:
    """The round trips of a placement, in the graph order of their ends."""
    walker = _Walker(decision)
    trips = (walker.trip(value) for value in decision.points)
    return tuple(trip for trip in trips if trip is not None)


class _Walker:
    def __init__(self, decision: Decision) -> None:
        self._points = {id(v) for v in decision.points}
        self._between = decision.between
        self._made = {id(layer.output) for layer in decision.layers}

    def _integer(self, value: ir.Value) -> bool:
        """Whether a value is in INT8 already: a point, or what an INT8 layer makes."""
        return id(value) in self._points or id(value) in self._made

    def _direct(self, value: ir.Value) -> bool:
        node = value.producer()
        if node is None or id(value) in self._made:
            return True
        inputs = [v for v in node.inputs if v is not None and is_wide(v)]
        if node.op_type in ("AveragePool", "GlobalAveragePool", "Add", "Concat") or commutes(node):
            return all(self._integer(v) for v in inputs)
        if node.op_type == "Mul" and self._between:
            return all(v is not None and self._integer(v) for v in node.inputs)
        if node.op_type in GATES and self._between:
            return node.inputs[0] is not None and self._integer(node.inputs[0])
        if node.op_type in _ACTIVATIONS:
            return all(self._integer(v) or self._direct(v) for v in inputs[:1])
        return False

    def trip(self, value: ir.Value) -> RoundTrip | None:
        """The round trip that ends at a point, if there is one."""
        if self._direct(value):
            return None
        # Back along feature maps only: gates come from pooled vectors.
        through: list[str] = []
        attention = False
        seen: set[int] = set()
        queue = [value]
        while queue:
            current = queue.pop(0)
            node = current.producer()
            if node is None or id(node) in seen:
                continue
            seen.add(id(node))
            if current is not value and self._integer(current):
                return RoundTrip(
                    source=current.name or "",
                    target=value.name or "",
                    through=tuple(reversed(through)),
                    attention=attention,
                )
            wide = [v for v in node.inputs if v is not None and is_wide(v)]
            through.append(node.op_type)
            attention = attention or (node.op_type == "Mul" and len(wide) < len(node.inputs))
            queue.extend(wide)
        return None
