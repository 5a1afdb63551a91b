"""What a placement decides before the graph is touched: which layers run in INT8, and which tensors carry a Q/DQ pair.

Two kinds of rules are asked, each a small module of its own:

- *keeping* rules (``keep_*.py``) give the reason why a layer stays in float, or None;
- *point* rules (``point_*.py``) name tensors that carry a Q/DQ pair.

A tensor reached through operations that only move values (MaxPool, Slice, Split, Reshape, ...) shares the scale of
the tensor they read, so all radix splits of one tensor have one scale, and the pair stands before the split as
well.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from radixrt.calibration.placement import (
    keep_ends,
    keep_gate,
    keep_groups,
    keep_light,
    keep_named,
    point_inputs,
    point_outputs,
    point_residual,
)
from radixrt.calibration.placement.options import Ends, KeptFloat, PlacementOptions
from radixrt.export.graph.facts import is_wide, root_of
from radixrt.export.graph.layers import Layer, layers_of
from radixrt.export.graph.origin import module_of

# The first reason found is the one reported: the most specific first.
_KEEPING = (keep_named.reason, keep_gate.reason, keep_groups.reason, keep_ends.reason, keep_light.reason)
_POINTS = (point_inputs.points, point_outputs.points, point_residual.points)
# TensorRT for RTX computes nothing but these layers in INT8: what they write stays as it is.
_POINTS_RTX = (point_inputs.points,)


@dataclass(frozen=True)
class Plan:
    """A placement, decided.

    Attributes:
        layers: the layers that run in INT8, in graph order.
        kept: the others, with reasons.
        points: tensors that carry a Q/DQ pair, in graph order.
    """

    layers: tuple[Layer, ...]
    kept: tuple[KeptFloat, ...]
    points: tuple[ir.Value, ...]


def make_plan(model: ir.Model, options: PlacementOptions) -> Plan:
    """Decides a placement; the graph must have its shapes inferred and is not changed."""
    chosen: list[Layer] = []
    kept: list[KeptFloat] = []
    for layer in layers_of(model.graph):
        why = next((r for rule in _KEEPING if (r := rule(layer, options)) is not None), None)
        if why is None:
            chosen.append(layer)
        else:
            kept.append(KeptFloat(layer.name, module_of(layer.node), why))
    layers = tuple(chosen)
    wanted: dict[int, ir.Value] = {}
    for rule in _POINTS_RTX if options.target == keep_light.RTX else _POINTS:
        for value in rule(layers, options):
            wanted[id(value)] = value
            root = root_of(value)
            if is_wide(root):
                wanted[id(root)] = root
    order = {id(v): i for i, v in enumerate(_values(model.graph))}
    points = sorted(wanted.values(), key=lambda v: order[id(v)])
    return Plan(layers, tuple(kept), tuple(points))


def observed_values(model: ir.Model) -> list[ir.Value]:
    """The tensors whose ranges any placement of this graph may need: what calibration has to watch, in graph order."""
    roots: dict[int, ir.Value] = {}
    for target in ("tensorrt", "onnxruntime"):
        options = PlacementOptions(target, first=Ends.INT8, last=Ends.INT8, narrow_groups=True, gates=True)
        for value in make_plan(model, options).points:
            root = root_of(value)
            roots[id(root)] = root
    return [v for v in _values(model.graph) if id(v) in roots]


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(v for node in graph for v in node.outputs)]
