"""Puts Q/DQ pairs into a graph: activations per tensor, weights per output channel.

Before::

    x ──► Conv(W, b) ──► y

After::

    x ──► QuantizeLinear(s, 0) ──► DequantizeLinear(s, 0) ──► Conv(DequantizeLinear(W8, sw, 0, axis=0), b) ──► y

Weights lie in the graph as the integers themselves, so the file is a quarter of the size; the bias stays in float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.calibration.int8 import Grid, channel_amax, channel_scales, quantize
from radixrt.calibration.saturation import quantize_in_pairs
from radixrt.export.graph.constants import forget
from radixrt.export.graph.layers import Layer
from radixrt.export.graph.writer import GraphWriter


class Inserter:
    """Adds Q/DQ pairs to one graph.

    Args:
        graph: changed in place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._writer = GraphWriter(graph)

    def activation(self, value: ir.Value, grid: Grid) -> ir.Value:
        """Puts a Q/DQ pair behind ``value``; every reader but the graph's own output reads the pair's result.

        Returns:
            the dequantised value.
        """
        writer, readers, origin = self._writer, list(value.uses()), value.producer()
        steps = writer.constant(np.asarray(grid.scale, np.float32), f"{value.name}_scale")
        kind = ir.DataType.UINT8 if grid.unsigned else ir.DataType.INT8
        name = "zero_point_u8" if grid.unsigned else "zero_point_s8"
        zero = writer.constant(np.asarray(grid.zero, kind.numpy()), f"{name}_{grid.zero}" if grid.zero else name)
        quantized = writer.op(
            "QuantizeLinear", [value, steps, zero], f"{value.name}_q", dtype=kind, shape=value.shape, origin=origin
        )
        restored = writer.op(
            "DequantizeLinear",
            [quantized, steps, zero],
            f"{value.name}_dq",
            dtype=value.dtype or ir.DataType.FLOAT,
            shape=value.shape,
            origin=origin,
        )
        writer.insert_behind(value)
        for node, index in readers:
            node.replace_input_with(index, restored)
        return restored

    def weight(self, layer: Layer, input_scale: float, *, in_pairs: bool = False) -> None:
        """Replaces a layer's weights by integers and their DequantizeLinear.

        Args:
            layer: the layer.
            input_scale: of the activation that it reads.
            in_pairs: the target's kernels read u8 activations, beside which neighbouring weights must fit 16 bits.
        """
        source = layer.node.inputs[1]
        assert source is not None
        if in_pairs:
            integers, scales = quantize_in_pairs(layer.weight, layer.axis, bias=layer.bias, input_scale=input_scale)
        else:
            scales = channel_scales(channel_amax(layer.weight, layer.axis), bias=layer.bias, input_scale=input_scale)
            integers = quantize(layer.weight, scales, layer.axis)
        # Layers that share a weight each get integers of their own, for a target may change those of one.
        base = source.name if len(source.uses()) == 1 else f"{layer.name}_{source.name}"
        restored = self._writer.op(
            "DequantizeLinear",
            [
                self._writer.constant(integers, f"{base}_int8"),
                self._writer.constant(scales, f"{base}_scale"),
                self._writer.constant(np.zeros(scales.shape, np.int8), f"{base}_zero"),
            ],
            f"{base}_dq",
            {"axis": layer.axis},
            dtype=source.dtype or ir.DataType.FLOAT,
            shape=ir.Shape(layer.weight.shape),
            origin=layer.node,
        )
        self._writer.insert_before(layer.node)
        layer.node.replace_input_with(1, restored)
        forget(self._graph, source)
