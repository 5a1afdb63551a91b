"""Which tensors of two graphs are the same layer's output, and which pair quantises what a layer reads.

The reference is the float32 graph before quantising or retyping, the other is the deploy graph made from it. Placing
Q/DQ and changing types keep the names of nodes and of their outputs, so a layer is matched by its node's name first
and by its output's name where a tool renamed nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from radixrt.errors import InputError
from radixrt.export.graph.origin import module_of

# What multiplies and what joins: between them nothing adds an error worth a row.
LAYER_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"})


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear with constant parameters: it rounds ``tensor`` to ``scale`` and clips to ``low`` .. ``high``."""

    tensor: str
    scale: float
    zero_point: int
    low: int
    high: int


@dataclass(frozen=True)
class MatchedLayer:
    """One layer in both graphs.

    Attributes:
        name: the torch module, or the node's name.
        op_type: of the reference's node.
        reference: the output's name there.
        deploy: the output's name in the deploy graph.
        feeders: positions of the layers whose outputs reach this one with no other layer between.
        pairs: what quantises its activations in the deploy graph.
    """

    name: str
    op_type: str
    reference: str
    deploy: str
    feeders: tuple[int, ...]
    pairs: tuple[Pair, ...]


def match_layers(reference: ir.Model, deploy: ir.Model) -> list[MatchedLayer]:
    """The layers of both graphs in the order of execution; none where the reference has none.

    Raises:
        InputError: no layer of the one is found in the other.
    """
    by_node = {node.name: node for node in deploy.graph if node.name}
    by_value = {value.name: node for node in deploy.graph for value in node.outputs if value.name}
    matched: list[MatchedLayer] = []
    place: dict[str, int] = {}
    layers = [node for node in reference.graph if node.op_type in LAYER_OPS and not _is_constant_arithmetic(node)]
    for node in layers:
        output = node.outputs[0].name or ""
        # onnxruntime's quantiser gives the name of an output that it quantises to what follows.
        found = (by_node.get(node.name or ""), by_value.get(output), by_value.get(f"{output}_QuantizeLinear_Input"))
        match = next((other for other in found if other is not None and other.op_type == node.op_type), None)
        if match is None:
            continue
        matched.append(
            MatchedLayer(
                name=module_of(node) or output,
                op_type=node.op_type,
                reference=output,
                deploy=match.outputs[0].name or "",
                feeders=tuple(sorted(_feeders(node, place))),
                pairs=tuple(_pairs(match)),
            )
        )
        place[output] = len(matched) - 1
    if layers and not matched:
        raise InputError(
            "no layer of the deploy graph is found in the reference graph: give the float32 graph it was made from"
        )
    return _named_apart(matched)


def _is_constant_arithmetic(node: ir.Node) -> bool:
    return all(value is None or value.const_value is not None for value in node.inputs)


def _feeders(node: ir.Node, place: dict[str, int]) -> set[int]:
    found: set[int] = set()
    seen: set[int] = set()
    stack = [value for value in node.inputs if value is not None]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if value.name in place:
            found.add(place[value.name])
        elif (maker := value.producer()) is not None:
            stack += [v for v in maker.inputs if v is not None]
    return found


def _pairs(node: ir.Node) -> list[Pair]:
    found = []
    for value in node.inputs:
        restore = value.producer() if value is not None else None
        # A Cast stands between the pair and a layer of another float type.
        while restore is not None and restore.op_type == "Cast" and restore.inputs[0] is not None:
            restore = restore.inputs[0].producer()
        if restore is None or restore.op_type != "DequantizeLinear" or restore.inputs[0] is None:
            continue
        quantize = restore.inputs[0].producer()
        if quantize is not None and quantize.op_type == "QuantizeLinear" and (pair := _pair(quantize)):
            found.append(pair)
    return found


def _pair(node: ir.Node) -> Pair | None:
    source = node.inputs[0]
    scale = _scalar(node, 1)
    if source is None or source.name is None or scale is None:
        return None
    kind = node.outputs[0].dtype or (node.inputs[2].dtype if len(node.inputs) > 2 and node.inputs[2] else None)
    if kind not in (ir.DataType.INT8, ir.DataType.UINT8, None):
        return None
    low, high = (0, 255) if kind == ir.DataType.UINT8 else (-128, 127)
    return Pair(source.name, scale, int(_scalar(node, 2) or 0), low, high)


def _scalar(node: ir.Node, index: int) -> float | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or value.const_value is None:
        return None
    array = value.const_value.numpy()
    return float(np.asarray(array, np.float64).reshape(-1)[0]) if array.size == 1 else None


def _named_apart(layers: list[MatchedLayer]) -> list[MatchedLayer]:
    """Gives each layer a name of its own: a module that holds several nodes gets the output's name behind it."""
    counts: dict[str, int] = {}
    for layer in layers:
        counts[layer.name] = counts.get(layer.name, 0) + 1
    return [
        layer
        if counts[layer.name] == 1
        else MatchedLayer(
            f"{layer.name} [{layer.reference}]",
            layer.op_type,
            layer.reference,
            layer.deploy,
            layer.feeders,
            layer.pairs,
        )
        for layer in layers
    ]
