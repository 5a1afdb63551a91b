"""Puts Q/DQ pairs into a graph: activations per tensor, weights per output channel.

Before::

    x ──► Conv(W, b) ──► y

After::

    x ──► QuantizeLinear(s, 0) ──► DequantizeLinear(s, 0) ──► Conv(DequantizeLinear(W8, sw, 0, axis=0), b) ──► y

Weights lie in the graph as the integers themselves, so the file is a quarter of the size; the bias stays in float.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import UNSIGNED_ZERO_POINT, Grid, channel_amax, channel_scales, quantize
from radixrt.calibration.saturation import quantize_in_pairs
from radixrt.export.graph.constants import forget
from radixrt.export.graph.layers import Layer
from radixrt.export.graph.writer import GraphWriter


@dataclass(frozen=True)
class Integers:
    """A weight in integers: ``(array - zero) * scale``, with one scale or one for each slice along ``axis``."""

    array: NDArray[Any]
    scale: NDArray[np.float32]
    zero: NDArray[Any]
    axis: int

    @property
    def symmetric(self) -> bool:
        """Whether all lie around 0."""
        return self.array.dtype == np.int8 and not self.zero.any()

    def signed(self) -> Integers:
        """The same numbers around 0, where they lie around 128 in u8."""
        if self.array.dtype != np.uint8 or (self.zero != UNSIGNED_ZERO_POINT).any():
            return self
        array = (self.array.astype(np.int16) - UNSIGNED_ZERO_POINT).astype(np.int8)
        return Integers(array, self.scale, np.zeros(self.zero.shape, np.int8), self.axis)

    def per_channel(self, axis: int) -> Integers:
        """The same with a scale for each slice along ``axis``, where it had one for all or these already."""
        count = (self.array.shape[axis],)
        scale, zero = (np.broadcast_to(part.reshape(-1), count).copy() for part in (self.scale, self.zero))
        return Integers(np.ascontiguousarray(self.array), scale, zero, axis)


class Inserter:
    """Adds Q/DQ pairs to one graph.

    Args:
        graph: changed in place.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._writer = GraphWriter(graph)

    def activation(self, value: ir.Value, grid: Grid, *, bare: Collection[str] = ()) -> ir.Value:
        """Puts a Q/DQ pair behind ``value``; every reader but the graph's own output reads the pair's result.

        Args:
            value: the tensor.
            grid: its numbers.
            bare: nodes that go on reading ``value`` itself.

        Returns:
            the dequantised value.
        """
        writer, origin = self._writer, value.producer()
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
        writer.put_behind(value, restored, bare=bare)
        return restored

    def weight(self, layer: Layer, input_scale: float, *, in_pairs: bool = False) -> None:
        """Replaces a layer's weights by integers and their DequantizeLinear.

        Args:
            layer: the layer.
            input_scale: of the activation that it reads.
            in_pairs: the target's kernels read u8 activations, beside which neighbouring weights must fit 16 bits.
        """
        if in_pairs:
            array, scales = quantize_in_pairs(layer.weight, layer.axis, bias=layer.bias, input_scale=input_scale)
        else:
            scales = channel_scales(channel_amax(layer.weight, layer.axis), bias=layer.bias, input_scale=input_scale)
            array = quantize(layer.weight, scales, layer.axis)
        self.integers(layer, Integers(array, scales, np.zeros(scales.shape, np.int8), layer.axis))

    def integers(self, layer: Layer, weight: Integers) -> None:
        """Replaces a layer's weights by these integers and their DequantizeLinear."""
        source = layer.node.inputs[1]
        assert source is not None
        # Layers that share a weight each get integers of their own, for a target may change those of one.
        base = source.name if len(source.uses()) == 1 else f"{layer.name}_{source.name}"
        restored = self._writer.op(
            "DequantizeLinear",
            [
                self._writer.constant(weight.array, f"{base}_int8"),
                self._writer.constant(weight.scale, f"{base}_scale"),
                self._writer.constant(weight.zero, f"{base}_zero"),
            ],
            f"{base}_dq",
            {"axis": weight.axis},
            dtype=source.dtype or ir.DataType.FLOAT,
            shape=ir.Shape(layer.weight.shape),
            origin=layer.node,
        )
        self._writer.insert_before(layer.node)
        layer.node.replace_input_with(1, restored)
        forget(self._graph, source)
