"""A Q/DQ graph without its Q/DQ pairs: what the same network is in FP32 or FP16, for comparing plans.

Before: activations pass QuantizeLinear and DequantizeLinear; weights are INT8 constants behind a DequantizeLinear, or
    float constants behind a pair.
After: activations pass directly; weights are float constants, as the DequantizeLinear gives them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir


def remove_pairs(model: ir.Model) -> ir.Model:
    """Returns a copy of the graph with every Q/DQ pair taken out."""
    model = ir.from_proto(ir.to_proto(model))
    graph = model.graph
    for node in tuple(graph):
        if node.op_type != "DequantizeLinear":
            continue
        source = node.inputs[0]
        assert source is not None
        quantiser = source.producer()
        result = node.outputs[0]
        if quantiser is not None and quantiser.op_type == "QuantizeLinear" and quantiser.inputs[0] is not None:
            replacement = quantiser.inputs[0]
        elif source.const_value is not None:
            replacement = _dequantised(graph, node)
        else:
            continue
        if result.is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(result, replacement)
        graph.remove(node, safe=True)
    for node in tuple(graph):
        if node.op_type == "QuantizeLinear" and not any(True for _ in node.outputs[0].uses()):
            graph.remove(node, safe=True)
    return model


def float16_twin(deploy: Path) -> bytes:
    """Returns the FP16 graph of the network that an INT8 deploy graph quantises, as the bytes of an ONNX file."""
    from radixrt.export.passes.float16 import to_float16

    return bytes(ir.to_proto(to_float16(remove_pairs(ir.load(deploy))).model).SerializeToString())


def _dequantised(graph: ir.Graph, node: ir.Node) -> ir.Value:
    """Computes a constant's DequantizeLinear and registers the result as a weight."""
    source, scale = node.inputs[0], node.inputs[1]
    assert source is not None and source.const_value is not None and scale is not None and scale.const_value is not None
    values = source.const_value.numpy().astype(np.float32)
    scales = scale.const_value.numpy()
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].const_value is not None:
        points = node.inputs[2].const_value.numpy().astype(np.float32)
    else:
        points = np.zeros_like(scales, dtype=np.float32)
    if scales.ndim == 1 and scales.size > 1:
        axis = node.attributes.get_int("axis", 1)
        shape = [1] * values.ndim
        shape[axis] = -1
        scales, points = scales.reshape(shape), points.reshape(shape)
    result = ((values - points) * scales.astype(np.float32)).astype(scales.dtype)
    weight = ir.Value(
        name=f"{source.name}_dequantised", const_value=ir.tensor(result, name=f"{source.name}_dequantised")
    )
    weight.dtype, weight.shape = ir.DataType.from_numpy(result.dtype), ir.Shape(result.shape)
    graph.register_initializer(weight)
    return weight
