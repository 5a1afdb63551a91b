"""A graph and its ranges become a strongly typed INT8 graph: symmetric Q/DQ pairs where the target needs them.

The order: decide (``decision.py``), give every point a scale from the table, all that meet the same one
(``meeting.py``), insert the Q/DQ pairs (``insert.py``), count what is left of float between INT8 layers
(``round_trips.py``).
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.calibration.placement.decision import decide
from radixrt.calibration.placement.grid import amax_of, grid_of
from radixrt.calibration.placement.insert import Inserter
from radixrt.calibration.placement.meeting import with_one_scale
from radixrt.calibration.placement.options import PlacementOptions, PlacementReport
from radixrt.calibration.placement.round_trips import round_trips
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.export.graph.facts import infer, root_of


def place(model: ir.Model, table: CalibrationTable, options: PlacementOptions) -> tuple[ir.Model, PlacementReport]:
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
    placed = infer(model.clone())
    table = with_one_scale(placed.graph, table)
    decision = decide(placed, options)
    grids = {
        id(v): grid_of(v, amax_of(v, table), table.find(root_of(v).name or ""), options.traits) for v in decision.points
    }
    ranges = [table.find(v.name or "") for v in decision.points]
    report = PlacementReport(
        quantized=tuple(layer.name for layer in decision.layers),
        kept_float=decision.kept,
        points=tuple(v.name or "" for v in decision.points),
        round_trips=round_trips(decision),
        dead_channels=sum(len(tensor.dead_channels) for tensor in ranges if tensor is not None),
    )
    inserter = Inserter(placed.graph)
    for layer in decision.layers:
        inserter.weight(layer, grids[id(layer.data)].scale, in_pairs=options.traits.weights_in_pairs)
    for value in decision.points:
        inserter.activation(value, grids[id(value)])
    return placed, report
