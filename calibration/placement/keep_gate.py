"""Keeping rule: the gate path stays in high precision.

The squeeze (global pooling), the fully connected layers on the pooled vector and the sigmoid or softmax are a
thousandth of the arithmetic and decide which channels live. A layer is on the gate path when it reads a pooled
tensor and what it makes is multiplied into a feature map; the classifier reads a pooled tensor too, but its result
leaves the graph.
"""

from __future__ import annotations

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.export.graph.facts import consumers, is_pooled, is_wide
from radixrt.export.graph.layers import Layer

REASON = "gate path: it is tiny and decides channels, so it stays in high precision"


def on_gate_path(layer: Layer) -> bool:
    """Whether a layer works on pooled vectors and its result comes back to a feature map."""
    if not is_pooled(layer.output) or not is_pooled(layer.data):
        return False
    seen: set[int] = set()
    queue = [layer.output]
    while queue:
        value = queue.pop()
        for node in consumers(value):
            if id(node) in seen:
                continue
            seen.add(id(node))
            if any(is_wide(v) for v in node.outputs):
                return True
            queue.extend(node.outputs)
    return False


def reason(layer: Layer, options: PlacementOptions) -> str | None:
    """Why the layer stays in float; None where this rule has no objection."""
    return REASON if not options.gates and on_gate_path(layer) else None
