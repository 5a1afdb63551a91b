"""Which operators a file may hold: standard ones that come to an end, and others only where nothing is run.

What those others make is known by who reads it, as far as it is known at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from radixrt.errors import InputError
from radixrt.export.reader.quantised import dynamic, quantised_arithmetic
from radixrt.export.reader.spelling.operator_form import contrib_pair
from radixrt.export.spec import FileChoice

_LONGEST_LOOP = 10_000  # rounds, of a Loop that says how many
_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"})
_RANDOM |= {"RandomNormalLike", "RandomUniformLike"}
_KEEP_CHANNELS = frozenset({"BatchNormalization", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "Identity"})
_KEEP_CHANNELS |= {"LeakyRelu", "PRelu", "Relu", "Sigmoid", "Softplus", "Tanh"}
_KEEP_CHANNELS |= {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}
"""Operators whose output has the rank of their first input, and as many channels."""


def check_operators(proto: onnx.ModelProto, path: Path, choice: FileChoice) -> list[str]:
    """Refuses what cannot be compiled; gives the operators of other domains, where they may stay.

    Raises:
        InputError: an operator is quantised arithmetic, of another domain, in training mode, random, or a loop that
            could run for ever.
    """
    opaque: dict[str, None] = {}
    local = {(function.domain, function.name) for function in proto.functions}
    outermost = proto.graph.node
    pending = [outermost, *(function.node for function in proto.functions)]
    while pending:
        nodes = pending.pop()
        outer = nodes is outermost
        for node in nodes:
            what = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            if quantised_arithmetic(node.op_type):
                why = "chooses its scales as it runs" if dynamic(node.op_type) else "has no form with Q/DQ pairs"
                raise InputError(
                    f"{path} is quantised already, and node {node.name!r} (a {what}) {why}: compile the float network, "
                    "or quantise it with static scales in the QDQ form"
                )
            if node.domain and (node.domain, node.op_type) not in local and not (outer and contrib_pair(node)):
                if not choice.opaque:
                    raise InputError(
                        f"{path}: node {node.name!r} is a {what}, which is no standard ONNX operator, so it cannot be "
                        "run: `radixrt rewrite` works around it"
                    )
                opaque[what] = None
            if node.op_type in ("Scan", "SequenceMap") or (node.op_type == "Loop" and not _bounded(node, proto.graph)):
                raise InputError(
                    f"{path}: node {node.name!r} is a {what} without a fixed number of rounds; such loops "
                    "cannot be compiled"
                )
            if _trains(node, proto.graph):
                raise InputError(
                    f"{path} was exported in training mode (node {node.name!r}, a {what}): call the network's eval() "
                    "and export it again"
                )
            if node.op_type in _RANDOM and not node.domain:
                raise InputError(
                    f"{path}: node {node.name!r} is a {what}, so no two runs agree and nothing can be held against "
                    "the original: export it without that"
                )
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g.node)
                pending.extend(graph.node for graph in attribute.graphs)
    return list(opaque)


def _trains(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a node computes statistics of the batch, or drops values at random."""
    if node.op_type == "BatchNormalization":
        mode = next((attribute.i for attribute in node.attribute if attribute.name == "training_mode"), 0)
        # Before opset 14 it is in training mode where it hands out what it learnt.
        return bool(mode) or len(node.output) == 5
    if node.op_type == "Dropout" and len(node.input) > 2:
        return any(_numbers(node.input[2], graph)) and any(_numbers(node.input[1], graph) or [0.5])
    return False


def _bounded(loop: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Whether a Loop says how many rounds it takes at the most, and that is no more than a network would."""
    return any(0 <= int(number) <= _LONGEST_LOOP for number in _numbers(loop.input[0] if loop.input else "", graph))


def _numbers(name: str, graph: onnx.GraphProto) -> list[float]:
    """The first element of what a constant of the graph holds, if there is one of that name."""
    tensors = [tensor for tensor in graph.initializer if tensor.name == name]
    made = [node for node in graph.node if node.op_type == "Constant" and name in node.output]
    tensors += [attribute.t for node in made for attribute in node.attribute if attribute.name == "value"]
    return [number for tensor in tensors for number in onnx.numpy_helper.to_array(tensor).reshape(-1)[:1].tolist()]


def note_shapes(proto: onnx.ModelProto) -> None:
    """Notes the rank and channels of what operators of other domains make, as the layers that read it show them.

    ::

        x ──► acme.Swirl ──► y ──► Relu ──► Conv(W: 32 x 16 x 3 x 3)          y has the shape (?, 16, ?, ?)

    Without it no shape behind such an operator is known, and no block is found there. What the file says stands.
    """
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
