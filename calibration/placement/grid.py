"""On which grid a point's numbers lie: what the graph proves of them, what calibration saw, and what the target takes.

- A gate's numbers lie between 0 and 1, whatever calibration saw: its range is that.
- A tensor that is never negative has all 256 unsigned levels, where the target takes them.
- Any other has the range that was seen, cut at its amax and at what the graph proves, where the target takes zero
  points; otherwise it is s8 and its range the same on both sides of 0.
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.calibration.int8 import UNSIGNED_MAX, Grid, grid_of_range, scale_from_amax
from radixrt.calibration.ranges.table import CalibrationTable, TensorRange
from radixrt.export.graph.facts import GATES, Signs, lower_bound, root_of
from radixrt.export.spec import Traits


def is_gate(value: ir.Value) -> bool:
    """Whether a value's numbers lie between 0 and 1 by construction, so that nobody need watch them."""
    maker = root_of(value).producer()
    return maker is not None and maker.op_type in GATES


def amax_of(value: ir.Value, table: CalibrationTable) -> float:
    """The amax of a point: the table's, or 1 of a gate.

    Raises:
        InputError: the table has no such tensor.
    """
    return 1.0 if is_gate(value) else table.amax(root_of(value).name or "")


def grid_of(value: ir.Value, amax: float, seen: TensorRange | None, traits: Traits) -> Grid:
    """The grid of a point.

    Args:
        value: the point.
        amax: the magnitude that its range ends at.
        seen: what calibration saw of it; None of a gate.
        traits: the target's.

    Raises:
        InputError: the range cannot be quantised.
    """
    if traits.full_range_u8 and Signs().nonnegative(root_of(value)):
        return Grid(scale_from_amax(amax, levels=UNSIGNED_MAX), unsigned=True)
    if not traits.zero_points or seen is None:
        return Grid(scale_from_amax(amax))
    low, bound = max(-amax, seen.minimum), lower_bound(value)
    return grid_of_range(low if bound is None else max(low, bound), min(amax, seen.maximum))
