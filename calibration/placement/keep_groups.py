"""Keeping rule: narrow groups stay in float.

INT8 tensor cores take channels four at a time at least, so a group whose width is not a multiple of 4 has no INT8
kernel worth the name: a hard rule on TensorRT. Below 16 channels a group the INT8 kernel is often slower than the
FP16 one, so those are quantised only where that was measured to pay.
"""

from __future__ import annotations

from radixrt.calibration.placement.options import Family, PlacementOptions
from radixrt.export.graph.layers import Layer

MULTIPLE = 4
NARROW = 16


def reason(layer: Layer, options: PlacementOptions) -> str | None:
    """Why the layer stays in float; None where this rule has no objection."""
    if layer.groups == 1:
        return None
    width_in = int(layer.weight.shape[1])
    width_out = int(layer.weight.shape[0]) // layer.groups
    width = min(width_in, width_out)
    if options.family is Family.TENSORRT and (width_in % MULTIPLE or width_out % MULTIPLE):
        return f"group width {width} is not a multiple of {MULTIPLE}: no INT8 kernel fits it"
    if width < NARROW and not options.narrow_groups:
        return f"group width {width} is below {NARROW}: INT8 was not measured faster"
    return None
