"""INT8 weights whose products fit 16 bits in pairs, for OpenVINO on x86 processors without VNNI.

Those processors add pairs of u8 x s8 products in 16 bits, which saturate at 32767 without a word: 255 * 127 * 2 does
not fit. OpenVINO turns symmetric activations into u8 around 128, so this happens in ordinary layers, and results are
wrong by several steps. Nothing can saturate where two neighbours of one sign make up at most 128
(:mod:`radixrt.calibration.saturation`). A CPU's deploy graph has such weights beside activations that are never
negative; the others get them here. NNCF halves all weights instead, under the name "overflow fix", which costs 6 dB.

This is done on every machine, whatever its own processor would need: a bundle is carried to others.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.calibration.saturation import fits, requantize_in_pairs
from radixrt.export.graph.constants import forget
from radixrt.export.graph.writer import GraphWriter

_MULTIPLY = ("Conv", "Gemm", "MatMul")


def unsaturated(model: ir.Model) -> ir.Model:
    """Returns a copy of an INT8 deploy graph in which no sum of two products leaves 16 bits."""
    model = model.clone()
    writer = GraphWriter(model.graph)
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and any(n.op_type in _MULTIPLY for n in node.outputs[0].consumers()):
            _shrink(node, writer)
    writer.append()
    return model


def _shrink(node: ir.Node, writer: GraphWriter) -> None:
    weight, scale = node.inputs[0], node.inputs[1]
    if weight is None or scale is None or weight.const_value is None or scale.const_value is None:
        return
    # A weight that another node reads too would be changed twice.
    if weight.const_value.dtype is not ir.DataType.INT8 or len(weight.uses()) != 1:
        return
    axis = node.attributes.get_int("axis", 1)
    integers, steps = weight.const_value.numpy(), scale.const_value.numpy()
    if fits(integers, axis):
        return
    integers, wider = requantize_in_pairs(integers, steps.astype(np.float32), axis)
    weight.const_value = ir.tensor(integers, name=weight.name)
    node.replace_input_with(1, writer.constant(wider.astype(steps.dtype), f"{scale.name}_of_{weight.name}_widened"))
    forget(writer.graph, scale)
