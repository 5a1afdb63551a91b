"""The layers that can run in INT8: Conv, ConvTranspose, Gemm, and MatMul with constant weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import constant
from radixrt.export.graph.facts import static_dims

LAYER_TYPES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Layer:
    """A node with weights.

    Attributes:
        node: the Conv, ConvTranspose, Gemm or MatMul.
        weight: its weights as they lie in the graph.
        axis: the axis of ``weight`` that counts output channels; of a grouped ConvTranspose, those of one group.
        bias: its bias, where it has a constant one.
        groups: 1 but for grouped convolutions.
    """

    node: ir.Node
    weight: NDArray[Any]
    axis: int
    bias: NDArray[Any] | None
    groups: int = 1

    @property
    def data(self) -> ir.Value:
        """The activation it reads."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def name(self) -> str:
        return self.node.name or self.output.name or self.node.op_type


def layers_of(graph: ir.Graph) -> list[Layer]:
    """Every layer with constant weights and a computed input, in graph order."""
    found = []
    for node in graph:
        if node.op_type in LAYER_TYPES and node.domain == "":
            layer = _layer(node)
            if layer is not None:
                found.append(layer)
    return found


def _layer(node: ir.Node) -> Layer | None:
    if node.inputs[0] is None or constant(node.inputs[0]) is not None:
        return None
    weight = constant(node.inputs[1])
    if weight is None or not np.issubdtype(weight.dtype, np.floating):
        return None
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None and len(node.inputs) > 2 and node.inputs[2] is not None:
        return None  # computed: engines want it constant, and bias correction would replace it
    if node.op_type == "Conv":
        return Layer(node, weight, 0, bias, node.attributes.get_int("group", 1))
    if node.op_type == "ConvTranspose":
        return Layer(node, weight, 1, bias, node.attributes.get_int("group", 1))
    if weight.ndim != 2:
        return None
    if node.op_type == "Gemm":
        axis = 0 if node.attributes.get_int("transB", 0) else 1
        if node.attributes.get_int("transA", 0) or _scales(node) or not (bias is None or _per_channel(bias)):
            return None
        channels = weight.shape[axis]
        return Layer(node, weight, axis, None if bias is None else np.broadcast_to(bias.reshape(-1), (channels,)))
    return Layer(node, weight, 1, _bias_after(node, weight.shape[1]))


def _scales(node: ir.Node) -> bool:
    """Whether a Gemm multiplies its product or its bias, as no linear layer does."""
    return any(node.attributes.get_float(name, 1.0) != 1 for name in ("alpha", "beta"))


def _per_channel(bias: NDArray[Any]) -> bool:
    """Whether a Gemm's bias is the same for every row: (C,), (1, C) or a single number."""
    return bias.ndim < 2 or bias.shape[0] == 1


def _bias_after(node: ir.Node, channels: int) -> NDArray[Any] | None:
    readers = node.outputs[0].consumers()
    if len(readers) == 1 and readers[0].op_type == "Add":
        for value in readers[0].inputs:
            # A number for each output channel, and not for each position.
            if (const := constant(value)) is not None and const.size == channels:
                return const.reshape(-1)
    return None


def macs_of(layer: Layer) -> int:
    """The multiplications of a layer for one image; 0 where its output's size is not known."""
    # A transposed convolution multiplies each position that it reads, any other each that it writes.
    counted = {"Conv": layer.output, "ConvTranspose": layer.data}.get(layer.node.op_type)
    positions = static_dims(counted)[2:]
    if None in positions:
        return 0
    return int(layer.weight.size) * math.prod(int(d or 0) for d in positions)
