"""A quantised hard sigmoid is a sum that saturates: the same numbers, on kernels that ONNX Runtime has.

Before::

    DQ(x) ──► HardSigmoid(1/6, 1/2) ──► Q(1/255, u8 0) ──► DQ(1/255, u8 0)

After::

    DQ(x) ──► Add(DQ(3)) ──► Q(6/255, u8 0) ──► DQ(1/255, u8 0)

``clip(x / 6 + 1/2, 0, 1) * 255 = clip((x + 3) * 255 / 6, 0, 255)``: the saturation of u8 is the clip, and reading the
integers back with another scale is the division by 6. Behind a convolution that nothing else reads, its bias takes the
3, and there is no operation left at all. Any other slope and offset of a hard sigmoid works alike.

A Clip from below before a QuantizeLinear whose least number is that bound, to half a step, is what the saturation does,
and disappears: ONNX Runtime drops it only where the bound is not above that number, and computes the layer before it
in float otherwise.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.calibration.int8 import UNSIGNED_MAX
from radixrt.export.graph.constants import array_of, constant
from radixrt.export.graph.writer import GraphWriter


def saturating_sums(model: ir.Model) -> None:
    """Writes every quantised hard sigmoid so. Changes the model in place."""
    writer = GraphWriter(model.graph)
    for node in list(model.graph):
        if node.op_type == "QuantizeLinear":
            _drop_clip(model.graph, node)
    for node in list(model.graph):
        gate = node.op_type == "HardSigmoid" and not node.domain
        quantise, data = (_quantiser_behind(node), node.inputs[0]) if gate else (None, None)
        if quantise is None or data is None:
            continue
        alpha = node.attributes.get_float("alpha", 0.2)
        offset = node.attributes.get_float("beta", 0.5) / alpha
        total = _in_bias(writer, data, offset) or _sum(writer, node, data, offset)
        if total is None:
            continue
        quantise.replace_input_with(0, total)
        step = np.asarray(1 / (alpha * UNSIGNED_MAX), np.float32)
        quantise.replace_input_with(1, writer.constant(step, f"{total.name}_step"))
        writer.insert_before(quantise)
        model.graph.remove(node, safe=True)


def _drop_clip(graph: ir.Graph, quantise: ir.Node) -> None:
    value = quantise.inputs[0]
    clip = None if value is None else value.producer()
    if value is None or clip is None or clip.op_type != "Clip" or len(value.uses()) != 1 or value.is_graph_output():
        return
    low, high = (constant(clip.inputs[i]) if len(clip.inputs) > i else None for i in (1, 2))
    scale, zero = constant(quantise.inputs[1]), constant(quantise.inputs[2])
    if low is None or high is not None or scale is None or zero is None or zero.dtype != np.uint8 or scale.ndim:
        return
    if abs(float(low) + int(zero) * float(scale)) <= float(scale) / 2:
        quantise.replace_input_with(0, clip.inputs[0])
        graph.remove(clip, safe=True)


def _quantiser_behind(node: ir.Node) -> ir.Node | None:
    """The only reader, where it quantises 0 to 1 to 0 to 255."""
    readers = node.outputs[0].consumers()
    if len(readers) != 1 or readers[0].op_type != "QuantizeLinear" or node.outputs[0].is_graph_output():
        return None
    scale, zero = constant(readers[0].inputs[1]), constant(readers[0].inputs[2])
    whole = scale is not None and scale.ndim == 0 and np.isclose(float(scale) * UNSIGNED_MAX, 1.0)
    return readers[0] if whole and zero is not None and zero.dtype == np.uint8 and int(zero) == 0 else None


def _in_bias(writer: GraphWriter, data: ir.Value, offset: float) -> ir.Value | None:
    """Adds to the bias of the convolution that makes ``data``, where only the hard sigmoid reads that."""
    conv = data.producer()
    if conv is None or conv.op_type != "Conv" or len(conv.inputs) < 3:
        return None
    if len(data.uses()) != 1 or data.is_graph_output():
        return None
    bias = conv.inputs[2]
    if bias is None or constant(bias) is None:
        return None
    shifted = writer.constant((array_of(bias) + np.float32(offset)).astype(np.float32), f"{bias.name}_and_offset")
    conv.replace_input_with(2, shifted)
    return data


def _sum(writer: GraphWriter, node: ir.Node, data: ir.Value, offset: float) -> ir.Value | None:
    """Adds in integers, where ``data`` is read back from integers."""
    maker = data.producer()
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    steps = writer.constant(np.asarray(offset / UNSIGNED_MAX, np.float32), "offset_step")
    whole, zero = (writer.constant(np.asarray(number, np.uint8), f"u8_{number}") for number in (UNSIGNED_MAX, 0))
    number = writer.op("DequantizeLinear", [whole, steps, zero], "offset", dtype=ir.DataType.FLOAT, origin=node)
    output = node.outputs[0]
    return writer.op("Add", [data, number], f"{output.name}_sum", shape=output.shape, origin=node)
