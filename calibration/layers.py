"""The layers that can run in INT8: Conv, Gemm, and MatMul with constant weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.graph_facts import attribute_int, constant, consumers, static_dims

LAYER_TYPES = frozenset({"Conv", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Layer:
    """A node with weights.

    Attributes:
        node: the Conv, Gemm or MatMul.
        weight: its weights as they lie in the graph.
        axis: the axis of ``weight`` that counts output channels.
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
        if node.op_type in LAYER_TYPES and node.domain in ("", "ai.onnx"):
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
    if node.op_type == "Conv":
        return Layer(node, weight, 0, bias, attribute_int(node, "group", 1))
    if weight.ndim != 2:
        return None
    if node.op_type == "Gemm":
        if attribute_int(node, "transA", 0):
            return None
        return Layer(node, weight, 0 if attribute_int(node, "transB", 0) else 1, bias)
    return Layer(node, weight, 1, _bias_after(node))


def _bias_after(node: ir.Node) -> NDArray[Any] | None:
    readers = consumers(node.outputs[0])
    if len(readers) == 1 and readers[0].op_type == "Add":
        for value in readers[0].inputs:
            if (const := constant(value)) is not None:
                return const.reshape(-1)
    return None


def macs_of(layer: Layer) -> int:
    """The multiplications of a layer for one image; 0 where its output's size is not known."""
    positions = static_dims(layer.output)[2:] if layer.node.op_type == "Conv" else ()
    if None in positions:
        return 0
    return int(layer.weight.size) * math.prod(int(d or 0) for d in positions)
