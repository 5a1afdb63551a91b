"""Which operators a file may hold: standard ones that come to an end, and others only where nothing is run."""

from __future__ import annotations

from pathlib import Path

import onnx

from radixrt.errors import InputError
from radixrt.export.reader.quantised import dynamic, quantised_arithmetic
from radixrt.export.reader.spelling.operator_form import contrib_pair
from radixrt.export.spec import FileChoice

_LONGEST_LOOP = 10_000  # rounds, of a Loop that says how many
_RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomUniform"})
_RANDOM |= {"RandomNormalLike", "RandomUniformLike"}


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
