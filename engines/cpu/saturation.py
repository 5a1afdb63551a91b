"""INT8 weights whose products fit 16 bits in pairs, for OpenVINO on x86 processors without VNNI.

Those processors add pairs of u8 x s8 products in 16 bits, which saturate at 32767 without a word: 255 * 127 * 2 does
not fit. OpenVINO turns symmetric activations into u8 around 128, so this happens in ordinary layers, and results are
wrong by several steps. Nothing can saturate where two neighbours of one sign make up at most 128
(:mod:`radixrt.calibration.saturation`). A CPU's deploy graph has such weights beside activations that are never
negative; the others get them here. NNCF halves all weights instead, under the name "overflow fix", which costs 6 dB.

This is done on every machine, whatever its own processor would need: a bundle is carried to others.
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.calibration.saturation import fits, requantize_in_pairs

_MULTIPLY = ("Conv", "Gemm", "MatMul")


def unsaturated(model: ir.Model) -> ir.Model:
    """Returns a copy of an INT8 deploy graph in which no sum of two products leaves 16 bits."""
    model = model.clone()
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and any(u.node.op_type in _MULTIPLY for u in node.outputs[0].uses()):
            _shrink(node)
    return model


def _shrink(node: ir.Node) -> None:
    weight, scale = node.inputs[0], node.inputs[1]
    if weight is None or scale is None or weight.const_value is None or scale.const_value is None:
        return
    # A weight that another node reads too would be changed twice.
    if weight.const_value.dtype is not ir.DataType.INT8 or len(tuple(weight.uses())) != 1 or node.graph is None:
        return
    axis = node.attributes.get_int("axis", 1)
    integers, steps = weight.const_value.numpy(), scale.const_value.numpy()
    if fits(integers, axis):
        return
    integers, wider = requantize_in_pairs(integers, steps.astype("float32"), axis)
    weight.const_value = ir.tensor(integers, name=weight.name)
    widened = ir.Value(name=f"{scale.name}_of_{weight.name}_widened")
    widened.const_value = ir.tensor(wider.astype(steps.dtype), name=widened.name)
    widened.dtype, widened.shape = scale.const_value.dtype, ir.Shape(wider.shape)
    node.graph.register_initializer(widened)
    node.replace_input_with(1, widened)
    if not tuple(scale.uses()) and scale.name is not None and scale.name in node.graph.initializers:
        del node.graph.initializers[scale.name]
