"""A graph and its ranges become a strongly typed INT8 graph: s8 symmetric Q/DQ pairs where the target wants them.

The order: decide (``plan.py``), give every point a scale from the table, insert the pairs (``insert.py``), count
what is left of float between INT8 layers (``round_trips.py``).
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.calibration.int8 import QMAX, UNSIGNED_MAX, scale_from_amax
from radixrt.calibration.placement.insert import Inserter, is_unsigned
from radixrt.calibration.placement.options import PlacementOptions, PlacementReport
from radixrt.calibration.placement.plan import make_plan
from radixrt.calibration.placement.round_trips import round_trips
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.export.graph.facts import infer, root_of


def place(
    model: ir.Model, table: CalibrationTable, options: PlacementOptions | None = None
) -> tuple[ir.Model, PlacementReport]:
    """Quantises a graph.

    Args:
        model: a float32 deploy graph; not changed.
        table: ranges of this graph's tensors.
        options: what to quantise, and for which target.

    Returns:
        the INT8 graph, and what was done.

    Raises:
        InputError: the table lacks a tensor, or holds a range that cannot be quantised.
    """
    options = options or PlacementOptions()
    placed = infer(model.clone())
    plan = make_plan(placed, options)
    unsigned = {id(v) for v in plan.points if is_unsigned(v, options)}
    scales = {
        id(v): scale_from_amax(table.amax(root_of(v).name or ""), levels=UNSIGNED_MAX if id(v) in unsigned else QMAX)
        for v in plan.points
    }
    trips = round_trips(plan)
    dead = sum(len(found.dead_channels) for v in plan.points if (found := table.find(v.name or "")) is not None)

    inserter = Inserter(placed.graph)
    for layer in plan.layers:
        inserter.weight(layer, scales[id(layer.data)], full_range=id(layer.data) in unsigned)
    for value in plan.points:
        inserter.activation(value, scales[id(value)], unsigned=id(value) in unsigned)
    report = PlacementReport(
        quantized=tuple(layer.name for layer in plan.layers),
        kept_float=plan.kept,
        points=tuple(v.name or "" for v in plan.points),
        round_trips=trips,
        dead_channels=dead,
    )
    return placed, report
