"""Point rule: of a residual Add, the skip branch is quantised.

TensorRT fuses ``Conv + Add`` into one kernel that reads the skip branch: as INT8 that is a quarter of the bytes.
The other input comes straight from the convolution's accumulator and must not be quantised. Where both inputs are
convolutions, the skip branch is the shallower one.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from radixrt.calibration.placement.options import Family, PlacementOptions
from radixrt.export.graph.facts import activation_after, consumers, is_wide
from radixrt.export.graph.layers import Layer


def points(layers: tuple[Layer, ...], options: PlacementOptions) -> Iterator[ir.Value]:
    """The tensors that this rule wants to carry a pair."""
    if options.family is not Family.TENSORRT:
        return  # there both branches are outputs of INT8 layers, or already quantised as inputs of some
    depths: dict[int, int] = {}
    for layer in layers:
        value = activation_after(layer.output)
        for add in consumers(value):
            if add.op_type != "Add" or not all(v is not None and is_wide(v) for v in add.inputs):
                continue
            skip = _skip_branch(add, depths)
            if skip is not None:
                yield skip


def _skip_branch(add: ir.Node, depths: dict[int, int]) -> ir.Value | None:
    first, second = add.inputs
    if first is None or second is None or first is second:
        return None
    return first if _depth(first, depths) < _depth(second, depths) else second


def _depth(value: ir.Value, known: dict[int, int]) -> int:
    """The largest number of layers between the graph's inputs and a value."""
    stack = [value]
    while stack:
        current = stack[-1]
        node = current.producer()
        inputs = [] if node is None else [v for v in node.inputs if v is not None]
        missing = [v for v in inputs if id(v) not in known]
        if missing:
            stack.extend(missing)
            continue
        own = int(node is not None and node.op_type in ("Conv", "Gemm", "MatMul"))
        known[id(current)] = own + max((known[id(v)] for v in inputs), default=0)
        stack.pop()
    return known[id(value)]
