"""A Q/DQ graph without its Q/DQ pairs: what the same network is in FP32 or FP16, for comparing plans.

Before: activations pass QuantizeLinear and DequantizeLinear; weights are INT8 constants behind a DequantizeLinear, or
    float constants behind a pair.
After: activations pass directly; weights are float constants, as the DequantizeLinear gives them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import constant
from radixrt.export.graph.writer import GraphWriter


def remove_pairs(model: ir.Model) -> ir.Model:
    """Returns a copy of the graph with every Q/DQ pair taken out."""
    model = ir.from_proto(ir.to_proto(model))
    graph = model.graph
    writer = GraphWriter(graph)
    for node in tuple(graph):
        result = node.outputs[0]
        if node.op_type != "DequantizeLinear" or result.is_graph_output():
            continue
        replacement = _before_pair(node) or _dequantised(node, writer)
        if replacement is not None:
            ir.convenience.replace_all_uses_with(result, replacement)
            graph.remove(node, safe=True)
    writer.append()
    for node in tuple(graph):
        if node.op_type == "QuantizeLinear" and not node.outputs[0].uses():
            graph.remove(node, safe=True)
    return model


def in_float16(deploy: Path) -> bytes:
    """Returns the FP16 graph of the network that an INT8 deploy graph quantises, as the bytes of an ONNX file."""
    from radixrt.export.passes.float16 import to_float16

    return bytes(ir.to_proto(to_float16(remove_pairs(ir.load(deploy))).model).SerializeToString())


def _before_pair(node: ir.Node) -> ir.Value | None:
    """What a DequantizeLinear restores, where a QuantizeLinear stands in front of it."""
    quantiser = None if node.inputs[0] is None else node.inputs[0].producer()
    return quantiser.inputs[0] if quantiser is not None and quantiser.op_type == "QuantizeLinear" else None


def _dequantised(node: ir.Node, writer: GraphWriter) -> ir.Value | None:
    """The weight that the DequantizeLinear of a constant gives."""
    source, scale, *zero_point = node.inputs
    codes, scales = constant(source), constant(scale)
    if source is None or codes is None or scales is None:
        return None
    points = constant(zero_point[0]) if zero_point else None
    points = np.zeros_like(scales) if points is None else points
    if scales.ndim == 1 and scales.size > 1:
        shape = [1] * codes.ndim
        shape[node.attributes.get_int("axis", 1)] = -1
        scales, points = scales.reshape(shape), points.reshape(shape)
    weight = (codes.astype(np.float32) - points.astype(np.float32)) * scales.astype(np.float32)
    return writer.constant(weight.astype(scales.dtype), f"{source.name}_dequantised")
