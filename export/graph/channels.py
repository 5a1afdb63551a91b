"""Channels between two dense convolutions are padded by zeros to a multiple.

Before::

    Conv(W1: C x I) ──► act ──► Conv(W2: depthwise C) ──► act ──► Mul ──► Conv(W3: O x C)
                                                           └► pool ► FC(W4: M x C) ► FC(W5: C x M) ► gate ─┘

After, with C' the next multiple::

    rows of zeros in W1, W2, W5 and their biases up to C', columns of zeros in W3 and W4

No number that was there changes: what the new channels hold is multiplied by zero where a convolution reads it.

Refused: channels that reach a graph's input or output, or an operation that is not done channel by channel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import array_of, constant, forget
from radixrt.export.graph.writer import GraphWriter

_BY_CHANNEL = frozenset(
    {"Relu", "HardSwish", "Sigmoid", "HardSigmoid", "Clip", "LeakyRelu", "GlobalAveragePool", "AveragePool", "MaxPool"}
)
_PAIRWISE = frozenset({"Mul", "Add"})


@dataclass
class _Region:
    """The tensors that share their channels, and the convolutions that make, keep and read these."""

    values: list[ir.Value] = field(default_factory=list)
    makers: list[ir.Node] = field(default_factory=list)
    keepers: list[ir.Node] = field(default_factory=list)
    readers: list[ir.Node] = field(default_factory=list)


def pad_channels(graph: ir.Graph, depthwise: ir.Node, multiple: int) -> str | None:
    """Pads the channels of a depthwise convolution and of all that shares them; returns why it cannot, if so."""
    assert depthwise.inputs[0] is not None
    region = _region(depthwise.inputs[0])
    if isinstance(region, str):
        return region
    channels = array_of(depthwise.inputs[1]).shape[0]  # type: ignore[arg-type]
    more = -channels % multiple
    if not more:
        return None
    writer = GraphWriter(graph)
    for node in (*region.makers, *region.keepers):
        for index in range(1, len(node.inputs)):
            _pad(writer, node, index, 0, more)
    for node in region.readers:
        _pad(writer, node, 1, 1, more)
    for node in region.keepers:
        node.attributes["group"] = ir.AttrInt64("group", channels + more)
    for value in region.values:
        if value.shape is not None:
            value.shape = ir.Shape([value.shape[0], channels + more, *value.shape[2:]])
    writer.append()
    return None


def _region(start: ir.Value) -> _Region | str:
    region, queue, seen = _Region(), [start], {id(start)}

    def join(value: ir.Value | None) -> None:
        if value is not None and id(value) not in seen:
            seen.add(id(value))
            queue.append(value)

    while queue:
        value = queue.pop()
        region.values.append(value)
        maker = value.producer()
        if maker is None or value.is_graph_output():
            return "its channels reach the graph's input or output"
        for node in (maker, *value.consumers()):
            if node.op_type == "Conv" and not node.domain:
                if any(v is not None and constant(v) is None for v in node.inputs[1:]):
                    return "a convolution's weights are computed"
                if node.attributes.get_int("group", 1) > 1 and not _depthwise(node):
                    return "a grouped convolution reads its channels by groups"
                _sort(node, value, region)
                if node in region.keepers:
                    join(node.inputs[0])
                    join(node.outputs[0])
            elif node.op_type in _BY_CHANNEL or (node.op_type in _PAIRWISE and _same_channels(node)):
                for other in (node.inputs[0], node.outputs[0], *(node.inputs if node.op_type in _PAIRWISE else ())):
                    join(other)
            else:
                return f"{node.op_type} is not done channel by channel"
    return region


def _sort(node: ir.Node, value: ir.Value, region: _Region) -> None:
    """Puts a convolution where it belongs: with its groups it keeps channels, otherwise it makes or reads them."""
    kind = region.keepers if _depthwise(node) else region.makers if node.outputs[0] is value else region.readers
    if node not in kind:
        kind.append(node)


def _depthwise(node: ir.Node) -> bool:
    weight, groups = constant(node.inputs[1]), node.attributes.get_int("group", 1)
    return groups > 1 and weight is not None and weight.shape[:2] == (groups, 1)


def _same_channels(node: ir.Node) -> bool:
    shapes = [None if v is None or constant(v) is not None else v.shape for v in node.inputs]
    return all(shape is not None and len(shape) == 4 for shape in shapes) and len({s[1] for s in shapes if s}) == 1


def _pad(writer: GraphWriter, node: ir.Node, index: int, axis: int, more: int) -> None:
    value = node.inputs[index]
    if value is None:
        return
    array = array_of(value)
    widths = [(0, more if i == axis else 0) for i in range(array.ndim)]
    node.replace_input_with(index, writer.constant(np.pad(array, widths), f"{value.name}_padded"))
    forget(writer.graph, value)
