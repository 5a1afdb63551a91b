"""Keeping rule: the first and the last layer by option.

The first layer reads three channels and gains little from INT8; the last makes the logits and costs little. Both
are choices, to be measured (``radixrt sensitivity``), so both are options.
"""

from __future__ import annotations

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.export.graph.facts import consumers, root_of
from radixrt.export.graph.layers import Layer


def is_first(layer: Layer) -> bool:
    """Whether nothing but value-moving operations lies between the graph's input and the layer."""
    return root_of(layer.data).is_graph_input()


def is_last(layer: Layer) -> bool:
    """Whether no other layer lies behind this one."""
    queue, seen = [layer.output], set[int]()
    while queue:
        for node in consumers(queue.pop()):
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                return False
            if id(node) not in seen:
                seen.add(id(node))
                queue.extend(node.outputs)
    return True


def reason(layer: Layer, options: PlacementOptions) -> str | None:
    """Why the layer stays in float; None where this rule has no objection."""
    if options.first is Ends.FLOAT and is_first(layer):
        return "first layer: kept in float by option, INT8 gains little on so few channels"
    if options.last is Ends.FLOAT and is_last(layer):
        return "last layer: kept in float by option, it makes the logits"
    return None
