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
from numpy.typing import NDArray

from radixrt.calibration.int8 import channel_amax, channel_scales, quantize
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.saturation import quantize_in_pairs
from radixrt.export.graph.facts import Signs, root_of
from radixrt.export.graph.layers import Layer
from radixrt.export.graph.origin import copy_origin


def is_unsigned(value: ir.Value, options: PlacementOptions) -> bool:
    """Whether a point uses all 256 unsigned levels: the target takes them, and the scale group is never negative."""
    return options.traits.full_range_u8 and Signs().nonnegative(root_of(value))


class Inserter:
    """Adds pairs to one graph.

    Args:
        graph: changed in place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._taken = {v.name for v in graph.inputs} | set(graph.initializers)
        self._taken |= {v.name for node in graph for v in node.outputs}
        self._zeros: dict[bool, ir.Value] = {}

    def activation(self, value: ir.Value, scale: float, *, unsigned: bool = False) -> ir.Value:
        """Puts a pair behind ``value``; every reader but the graph's own output reads the pair's result.

        Returns:
            the dequantised value.
        """
        readers = list(value.uses())
        step = self._constant(f"{value.name}_scale", np.asarray(scale, np.float32))
        zero = self._zero_point(unsigned)
        kind = ir.DataType.UINT8 if unsigned else ir.DataType.INT8
        quantized = self._value(f"{value.name}_q", kind, value.shape)
        restored = self._value(f"{value.name}_dq", value.dtype or ir.DataType.FLOAT, value.shape)
        quantize_node = ir.Node("", "QuantizeLinear", [value, step, zero], outputs=[quantized], name=quantized.name)
        restore_node = ir.Node("", "DequantizeLinear", [quantized, step, zero], outputs=[restored], name=restored.name)
        maker = value.producer()
        if maker is not None:
            copy_origin(maker, quantize_node)
            copy_origin(maker, restore_node)
            self._graph.insert_after(maker, [quantize_node, restore_node])
        else:
            self._graph.insert_before(self._graph[0], [quantize_node, restore_node])
        for node, index in readers:
            node.replace_input_with(index, restored)
        return restored

    def weight(self, layer: Layer, input_scale: float, *, full_range: bool = False) -> NDArray[np.float32]:
        """Replaces a layer's weights by integers and their DequantizeLinear.

        Args:
            layer: the layer.
            input_scale: of the activation that it reads.
            full_range: that activation is u8 with all 256 levels, beside which pairs of weights must fit 16 bits.

        Returns:
            the scales, one per output channel.
        """
        source = layer.node.inputs[1]
        assert source is not None
        if full_range:
            integers, scales = quantize_in_pairs(layer.weight, layer.axis, bias=layer.bias, input_scale=input_scale)
        else:
            scales = channel_scales(channel_amax(layer.weight, layer.axis), bias=layer.bias, input_scale=input_scale)
            integers = quantize(layer.weight, scales, layer.axis)
        base = f"{source.name}"
        stored = self._constant(f"{base}_int8", integers)
        steps = self._constant(f"{base}_scale", scales)
        zeros = self._constant(f"{base}_zero", np.zeros(scales.shape, np.int8))
        restored = self._value(f"{base}_dq", source.dtype or ir.DataType.FLOAT, ir.Shape(layer.weight.shape))
        node = ir.Node(
            "",
            "DequantizeLinear",
            [stored, steps, zeros],
            [ir.AttrInt64("axis", layer.axis)],
            outputs=[restored],
            name=restored.name,
        )
        copy_origin(layer.node, node)
        self._graph.insert_before(layer.node, node)
        layer.node.replace_input_with(1, restored)
        if not source.uses() and source.is_initializer():
            del self._graph.initializers[source.name or ""]
        return scales

    def _zero_point(self, unsigned: bool) -> ir.Value:
        if unsigned not in self._zeros:
            name, kind = ("zero_point_u8", np.uint8) if unsigned else ("zero_point_s8", np.int8)
            self._zeros[unsigned] = self._constant(name, np.asarray(0, kind))
        return self._zeros[unsigned]

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        unique = self._unique(name)
        tensor = ir.tensor(array, name=unique)
        value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def _value(self, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        return ir.Value(name=self._unique(name), shape=shape, type=ir.TensorType(dtype))

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._taken.add(unique)
        return unique
