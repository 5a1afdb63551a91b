"""What a placement decides before the graph is touched: which layers run in INT8, and which tensors carry a Q/DQ pair.

The rules that keep a layer in float stand in ``keep.py``, those that name tensors in ``points.py``.

A tensor reached through operations that only move values (MaxPool, Slice, Split, Reshape, ...) shares the scale of
the tensor they read, so all radix splits of one tensor have one scale, and the Q/DQ pair stands before the split as
well. What meets in a Concat has one scale, too (``meeting.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from radixrt.calibration.placement import keep
from radixrt.calibration.placement.between import between
from radixrt.calibration.placement.grid import is_gate
from radixrt.calibration.placement.meeting import meeting
from radixrt.calibration.placement.options import KeptFloat, PlacementOptions
from radixrt.calibration.placement.points import points
from radixrt.export.graph.facts import is_wide, root_of
from radixrt.export.graph.layers import Layer, layers_of
from radixrt.export.graph.origin import module_of
from radixrt.export.spec import Int8Outputs, Traits


@dataclass(frozen=True)
class Decision:
    """A placement, decided.

    Attributes:
        layers: the layers that run in INT8, in graph order.
        kept: the others, and other operations on feature maps that no rule quantises, with reasons.
        points: tensors that carry a Q/DQ pair, in graph order.
        between: products and gates of points are computed in integers.
    """

    layers: tuple[Layer, ...]
    kept: tuple[KeptFloat, ...]
    points: tuple[ir.Value, ...]
    between: bool = False


def decide(model: ir.Model, options: PlacementOptions) -> Decision:
    """Decides a placement; the graph must have its shapes inferred and is not changed."""
    chosen: list[Layer] = []
    kept: list[KeptFloat] = []
    for layer in layers_of(model.graph):
        why = keep.reason(layer, options)
        if why is None:
            chosen.append(layer)
        else:
            kept.append(KeptFloat(layer.name, module_of(layer.node), why))
    kept += [
        KeptFloat(node.name or "", module_of(node) or node.name or "", why)
        for node in model.graph
        if (why := keep.unruled(node)) is not None
    ]
    layers = tuple(chosen)
    wanted = list(points(layers, options.traits))
    if options.traits.int8_outputs is not Int8Outputs.NONE:
        wanted += list(meeting(wanted))
    if options.traits.int8_between:
        wanted += list(between(model.graph, wanted))
    wanted += [root for value in wanted if is_wide(root := root_of(value))]
    return Decision(layers, tuple(kept), tuple(_in_order(model.graph, wanted)), options.traits.int8_between)


def observed_values(model: ir.Model) -> list[ir.Value]:
    """The tensors whose ranges any placement of this graph may need: what calibration has to watch, in graph order."""
    layers = tuple(layers_of(model.graph))
    kinds = [Traits("", outputs) for outputs in Int8Outputs] + [Traits("", int8_between=True)]
    wanted = [value for traits in kinds for value in points(layers, traits)]
    wanted += list(meeting(wanted))
    wanted += between(model.graph, wanted)
    return _in_order(model.graph, map(root_of, (value for value in wanted if not is_gate(value))))


def _in_order(graph: ir.Graph, values: Iterable[ir.Value]) -> list[ir.Value]:
    wanted = {id(value) for value in values}
    return [v for v in (*graph.inputs, *(v for node in graph for v in node.outputs)) if id(v) in wanted]
