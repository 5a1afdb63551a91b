"""A strongly typed FP16 graph, given FP32 types again; so is what a file computes in double.

Before: FP16 tensors and weights, a Cast to FP16 behind the input and one to FP32 before the output; Q/DQ pairs may
have FP16 scales. Or the same in double, for all of a graph or a part of it.

After: the same graph with every FP16 and double tensor FP32, and no Cast left that changes nothing. Weights keep their
FP16 values, so what is computed differs from the FP16 graph only by rounding less. With ``keep_half_weights`` the large
weights stay FP16 in the file, each behind a Cast that the engine folds when it loads: half the size. The scales of Q/DQ
pairs are always converted, because engines look for them as constants.

Used for ONNX Runtime on a CPU, which has no FP16 kernels, and for TensorRT 8.x, whose parser wants FP32 scales and
takes the precision from builder flags.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.writer import GraphWriter

_OTHERS = (ir.DataType.FLOAT16, ir.DataType.DOUBLE)
# Below this many values a weight is not worth a Cast of its own.
_SMALL = 256


def has_half(model: ir.Model) -> bool:
    """Says whether any tensor of the graph is FP16."""
    return _holds(model, ir.DataType.FLOAT16)


def has_double(model: ir.Model) -> bool:
    """Says whether any tensor of the graph is double."""
    return _holds(model, ir.DataType.DOUBLE)


def _holds(model: ir.Model, dtype: ir.DataType) -> bool:
    weights = any(v.dtype is dtype for v in model.graph.initializers.values())
    return weights or any(value.dtype is dtype for node in model.graph for value in node.outputs)


def to_float32(model: ir.Model, *, keep_half_weights: bool = False) -> ir.Model:
    """Returns a copy of the graph with FP32 types.

    Args:
        model: a deploy graph; it is not changed.
        keep_half_weights: leave large weights FP16, each behind a Cast.
    """
    model = ir.from_proto(ir.to_proto(model))
    graph = model.graph
    for node in graph:
        _retype_attributes(node)
        for value in node.outputs:
            if value.dtype in _OTHERS:
                value.dtype = ir.DataType.FLOAT
    for value in (*graph.inputs, *graph.outputs):
        if value.dtype in _OTHERS:
            value.dtype = ir.DataType.FLOAT
    _remove_casts(graph)
    writer = GraphWriter(graph)
    for value in tuple(graph.initializers.values()):
        if value.const_value is not None and value.dtype in _OTHERS:
            keep = keep_half_weights and value.dtype is ir.DataType.FLOAT16
            _retype_weight(value, value.const_value, keep, writer)
    return model


def _retype_attributes(node: ir.Node) -> None:
    for name, attribute in tuple(node.attributes.items()):
        if attribute.type is ir.AttributeType.TENSOR and attribute.value.dtype in _OTHERS:
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(attribute.value.numpy().astype(np.float32)))
        elif (
            node.op_type in ("Cast", "EyeLike", "DequantizeLinear", "QuantizeLinear")
            and name in ("to", "dtype", "output_dtype")
            and attribute.value in [other.value for other in _OTHERS]
        ):
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)


def _remove_casts(graph: ir.Graph) -> None:
    """Takes out every Cast from FP32 to FP32, except one between a graph input and a graph output."""
    for node in tuple(graph):
        if node.op_type != "Cast" or node.inputs[0] is None or node.inputs[0].dtype is not ir.DataType.FLOAT:
            continue
        if node.attributes["to"].as_int() != ir.DataType.FLOAT.value:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if result.is_graph_output():
            producer = source.producer()
            if producer is None or source.is_graph_output():
                continue
            # The output keeps its name: the producer takes the output's value over.
            name = result.name
            for use in tuple(result.uses()):
                use.node.replace_input_with(use.idx, source)
            index = list(graph.outputs).index(result)
            graph.outputs[index] = source
            source.shape, source.type = result.shape, result.type
            graph.remove(node, safe=True)
            source.name = name
        else:
            ir.convenience.replace_all_uses_with(result, source)
            graph.remove(node, safe=True)


def _retype_weight(value: ir.Value, tensor: ir.TensorProtocol, keep_half: bool, writer: GraphWriter) -> None:
    users = tuple(value.uses())
    quantiser = any(use.node.op_type in ("QuantizeLinear", "DequantizeLinear") for use in users)
    if keep_half and not quantiser and tensor.size > _SMALL and users:
        to = {"to": ir.DataType.FLOAT.value}
        cast = writer.op("Cast", [value], f"{value.name}_float32", to, dtype=ir.DataType.FLOAT, shape=value.shape)
        writer.insert_behind(value)
        for use in users:
            use.node.replace_input_with(use.idx, cast)
    else:
        value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
        value.dtype = ir.DataType.FLOAT
