"""Point rule: what an INT8 layer reads is quantised, per tensor."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.export.graph.layers import Layer


def points(layers: tuple[Layer, ...], options: PlacementOptions) -> Iterator[ir.Value]:
    """The tensors that this rule wants to carry a pair."""
    for layer in layers:
        yield layer.data
