"""Convolutions that forms are chosen for."""

from __future__ import annotations

from radixrt.engines.registry import get
from radixrt.export.passes.conv_shape import ConvShape
from radixrt.export.passes.pool_conv import PoolConvShape

RESNEXT = ConvShape(1, 32, 32, 8, (3, 3), pads=(1, 1, 1, 1), height=8, width=8)
TRAITS = get("onnxruntime").traits
AVD = PoolConvShape(ConvShape(1, 8, 16, 1, (3, 3), stride=(2, 2), pads=(1, 1, 1, 1), height=9, width=9), (2, 2))
