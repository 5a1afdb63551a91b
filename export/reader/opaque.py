"""What a graph tells of the outputs of operators that nobody here knows: their rank and channels, by who reads them.

::

    x ──► acme.Swirl ──► y ──► Relu ──► Conv(W: 32 x 16 x 3 x 3)          y has the shape (?, 16, ?, ?)

Without it no shape behind such an operator is known, and no block is found there.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

_KEEP_CHANNELS = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Elu",
        "Gelu",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "PRelu",
        "Relu",
        "Sigmoid",
        "Softplus",
        "Tanh",
    }
)
"""Operators whose output has the rank of their first input, and as many channels."""


def note_shapes(proto: onnx.ModelProto) -> None:
    """Says of every output of an operator of another domain what its readers show, where the file says nothing."""
    graph = proto.graph
    said = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.HasField("shape")}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.input and not node.domain:
            readers.setdefault(node.input[0], []).append(node)
    for node in graph.node:
        for name in node.output if node.domain else ():
            if name and name not in said and (shown := _shown(name, readers, weights)) is not None:
                rank, channels, kind = shown
                dims = [None, channels, *[None] * (rank - 2)]
                graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, dims))


def _shown(
    name: str, readers: Mapping[str, list[onnx.NodeProto]], weights: Mapping[str, onnx.TensorProto]
) -> tuple[int, int, int] | None:
    """The rank, the channels and the type of a value, as a layer that reads it shows them."""
    pending, seen = [name], {name}
    while pending:
        for node in readers.get(pending.pop(), ()):
            weight = weights.get(node.input[1]) if len(node.input) > 1 else None
            if weight is not None and (channels := _read_channels(node, weight)):
                return len(weight.dims), channels, weight.data_type
            if node.op_type in _KEEP_CHANNELS and node.output[0] not in seen:
                seen.add(node.output[0])
                pending.append(node.output[0])
    return None


def _read_channels(layer: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    """How many channels a layer with such a weight reads; 0 of anything else."""
    numbers = {attribute.name: attribute.i for attribute in layer.attribute}
    if layer.op_type == "Conv":
        return int(weight.dims[1] * numbers.get("group", 1))
    if layer.op_type == "ConvTranspose":
        return int(weight.dims[0])
    if layer.op_type == "Gemm" and not numbers.get("transA"):
        return int(weight.dims[1 if numbers.get("transB") else 0])
    return 0
