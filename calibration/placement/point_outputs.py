"""Point rule: what an INT8 convolution makes is quantised behind its activation, so that it is written as INT8.

On TensorRT two kinds are left alone: a convolution that feeds a residual Add directly, because the Add is part of
its epilogue and nothing may stand between (``point_residual.py`` takes the other branch); and one that only feeds
global pooling or the graph's output, where INT8 would cost accuracy and save nothing.

On CPUs a convolution runs in INT8 only when its output is quantised at once, so every one is.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from radixrt.calibration.placement.options import Family, PlacementOptions
from radixrt.export.graph.facts import activation_after, consumers, is_wide
from radixrt.export.graph.layers import Layer


def points(layers: tuple[Layer, ...], options: PlacementOptions) -> Iterator[ir.Value]:
    """The tensors that this rule wants to carry a pair."""
    for layer in layers:
        if not is_wide(layer.output):
            continue
        value = activation_after(layer.output)
        if value.is_graph_output():
            continue
        residual = value is layer.output and _feeds_add(value)
        if options.family is Family.CPU or (not residual and _feeds_wide(value)):
            yield value


def _feeds_add(value: ir.Value) -> bool:
    return any(node.op_type == "Add" for node in consumers(value))


def _feeds_wide(value: ir.Value) -> bool:
    return any(is_wide(out) for node in consumers(value) for out in node.outputs)
