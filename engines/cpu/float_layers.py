"""Keeps ONNX Runtime from quantising, by itself, layers that a placement left in float.

ONNX Runtime takes a float convolution or Gemm that stands alone between a DequantizeLinear and a QuantizeLinear for
one whose weights somebody forgot, and quantises them, per tensor, when a session is opened (``WeightBiasQuantization``,
at every optimisation level but none). So a layer that was kept in float for its accuracy lost it silently, and a narrow
grouped convolution, kept because its INT8 kernel is slow, ran on that kernel.

The optimiser looks through ReLU and Clip. Behind each such layer stands a LeakyRelu here: it does not look through
that, and ONNX Runtime computes it inside the convolution. With a slope of 0 it is the ReLU that it replaces, with a
slope of 1 it changes nothing.
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.export.graph.constants import constant
from radixrt.export.graph.writer import GraphWriter

_LAYERS = ("Conv", "ConvTranspose", "Gemm")


def keep_float_layers(model: ir.Model) -> None:
    """Puts a LeakyRelu behind each float layer that ONNX Runtime would quantise. Changes the model in place."""
    writer = GraphWriter(model.graph)
    for node in list(model.graph):
        if node.op_type in _LAYERS and _reads_integers(node) and constant(node.inputs[1]) is not None:
            last = _last_before_quantising(node)
            if last is not None:
                _guard(writer, last)


def _reads_integers(node: ir.Node) -> bool:
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    return maker is not None and maker.op_type == "DequantizeLinear"


def _last_before_quantising(node: ir.Node) -> ir.Node | None:
    """The layer, or the ReLU or Clip behind it, that a QuantizeLinear alone reads; None where nothing alone does."""
    while True:
        output = node.outputs[0]
        readers = output.consumers()
        if len(readers) != 1 or output.is_graph_output():
            return None
        if readers[0].op_type == "QuantizeLinear":
            return node
        if readers[0].op_type not in ("Relu", "Clip"):
            return None
        node = readers[0]


def _guard(writer: GraphWriter, last: ir.Node) -> None:
    output = last.outputs[0]
    relu = last.op_type == "Relu"
    source, slope = (last.inputs[0], 0.0) if relu else (output, 1.0)
    kept = writer.op(
        "LeakyRelu",
        [source],
        f"{output.name}_kept",
        {"alpha": slope},
        dtype=output.dtype,
        shape=output.shape,
        origin=last,
    )
    writer.put_behind(output, kept)
    if relu:
        writer.graph.remove(last, safe=True)
