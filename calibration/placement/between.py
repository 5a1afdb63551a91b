"""What stands between INT8 layers and is computed in integers too, where the target has kernels for it.

The product of a map with its gate, a sum, a gate of a map (hard swish and SiLU are products with one), and what global
pooling makes of a map::

    DQ(x) ──► HardSigmoid ──► Q/DQ ──► Mul ──► Q/DQ ──► next layer
      └──────────────────────────────►─┘

A product or sum is computed in integers where its result is a point already, or the ReLU of it that alone reads it, and
every map that it reads is a point, or is such a product or sum itself; its inputs then are points, the gate too.
Pooling and gates follow: what they read is a point. Without that each of them costs a DequantizeLinear and a
QuantizeLinear of a whole map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from radixrt.export.graph.constants import is_constant
from radixrt.export.graph.facts import GATES, activation_after, is_wide, root_of

_ELEMENTWISE = frozenset({"Add", "Mul"})
_GATES = GATES - {"Softmax"}


def between(graph: ir.Graph, points: Iterable[ir.Value]) -> Iterator[ir.Value]:
    """The points that products, sums, gates and poolings between the given points need.

    Args:
        graph: with its shapes inferred, in order.
        points: that layers need.
    """
    known = {id(root_of(value)) for value in points}
    for node in reversed(graph):
        result = node.outputs[0]
        if node.op_type == "GlobalAveragePool" and id(result) in known and _integral(node.inputs[0], known):
            pooled = root_of(node.inputs[0])  # type: ignore[arg-type]
            if id(pooled) not in known:
                known.add(id(pooled))
                yield pooled
        if node.op_type not in _ELEMENTWISE or id(_rectified(result)) not in known:
            continue
        if all(_integral(value, known) for value in node.inputs):
            for value in node.inputs:
                if value is not None and id(root_of(value)) not in known:
                    known.add(id(root_of(value)))
                    yield root_of(value)
    for node in graph:
        data = node.inputs[0] if node.op_type == "GlobalAveragePool" else None
        if data is not None and id(root_of(data)) in known:
            yield node.outputs[0]


def _rectified(value: ir.Value) -> ir.Value:
    """What the ReLU makes that alone reads a value, and that an integer kernel's saturation is; else the value."""
    after = activation_after(value)
    maker = after.producer()
    return after if maker is not None and maker.op_type == "Relu" else value


def _integral(value: ir.Value | None, known: set[int]) -> bool:
    """Whether a value is a point, or can become one without a float map being quantised for it."""
    if value is None or is_constant(value):
        return False
    root = root_of(value)
    node = root.producer()
    if id(root) in known:
        return True
    if node is None:
        return False
    if node.op_type in _GATES:
        return not is_wide(root) or _integral(node.inputs[0], known)
    if node.op_type == "Concat":  # of points, as a convolution in one piece for each group leaves it
        return is_wide(root) and all(v is not None and id(root_of(v)) in known for v in node.inputs)
    return node.op_type in _ELEMENTWISE and all(_integral(v, known) for v in node.inputs)
