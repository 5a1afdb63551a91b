"""Keeping rule: for TensorRT for RTX, layers whose weights are light beside what they write.

Its INT8 convolutions take INT8 and write FP32, so an INT8 layer saves one byte of each weight and pays several for each
element that it writes: the wider output, the kernel that quantises, and what that reads and writes again. Compiled
plans (``radixrt.engines.tensorrt.plan_cost``, SM 8.6, batch 1, 224 x 224) break even at about eight; see
``docs/decisions/tensorrt-rtx-int8.md``.
"""

from __future__ import annotations

import math

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.export.graph.facts import static_dims
from radixrt.export.graph.layers import Layer

RTX = "tensorrt-rtx"
WEIGHTS_PER_OUTPUT = 8


def reason(layer: Layer, options: PlacementOptions) -> str | None:
    """Why the layer stays in float; None where this rule has no objection."""
    if options.target != RTX or options.only is not None:
        return None
    # An open batch counts as one image, for which weights weigh most.
    written = math.prod(size or 1 for size in static_dims(layer.output))
    if layer.weight.size >= WEIGHTS_PER_OUTPUT * written:
        return None
    return f"TensorRT for RTX writes FP32 after INT8: {layer.weight.size:,} weights save less than that costs"
