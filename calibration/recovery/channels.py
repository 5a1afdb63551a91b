"""Which channels of a graph can be rescaled, and which of them only together.

Dividing channel c of a tensor by a positive number changes nothing where whatever makes it can divide, and whatever
reads it multiply again. Layers do so by their weights. What stands between them hands the number on, or forbids it::

    Conv ──► x ──► Add ──► y ──► Relu ──► Conv            x, z and y: one number for channel c of all three
    Conv ──► z ──┘

- ReLUs, pooling, resizing, sums, differences: one number for channel c of all that they read and write.
- A product: one for the data and the result, none for the gate; likewise where it is with a constant.
- Concat and Split along the channels: each channel keeps its number in its new place.
- Anything else, the graph's inputs and outputs, and layers that share their weights: none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import is_constant
from radixrt.export.graph.facts import GATES, is_pooled, reads, reduced_axes, root_of, static_dims
from radixrt.export.graph.layers import Layer, layers_of

Indices = NDArray[np.int64]

FIXED = -1
"""The group of channels that cannot be rescaled."""

_HOMOGENEOUS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity"}
)
_SPATIAL = frozenset({"ReduceMean", "ReduceMax", "ReduceSum", "Resize", "Flatten", "Squeeze", "Reshape", "Unsqueeze"})
_SUMS = frozenset({"Add", "Sub", "Sum", "Max", "Min"})


@dataclass(frozen=True)
class ChannelGroups:
    """The groups of channels that go by one number.

    Attributes:
        of: for each channel of a tensor its group, by the tensor's name; ``FIXED`` where it cannot be rescaled.
        count: how many groups there are.
    """

    of: dict[str, Indices]
    count: int


def channel_groups(graph: ir.Graph) -> ChannelGroups:
    """Groups all channels of a graph, whose shapes are inferred."""
    return _Grouping(graph).groups()


def rescalable(layer: Layer) -> bool:
    """Whether a layer's weights can take numbers on both sides: they are its own, and its channels lie on axis 1."""
    values = layer.node.inputs[1:3]
    owned = all(value is None or (value.is_initializer() and len(value.uses()) == 1) for value in values)
    known = all(len(static_dims(value)) >= 2 and static_dims(value)[1] for value in (layer.data, layer.output))
    return owned and known and layer.node.op_type != "MatMul"


class _Grouping:
    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._first: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._sizes: dict[int, int] = {}
        self._edges: list[tuple[Indices, Indices]] = []
        count = 0
        for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
            dims = static_dims(value)
            if len(dims) < 2 or dims[1] is None or not value.name:
                continue
            self._first[id(value)], self._sizes[id(value)], self._names[id(value)] = count, dims[1], value.name
            count += dims[1]
        self._fixed = np.zeros(count, bool)
        for value in (*graph.inputs, *graph.outputs):
            self._fix(value)
        layers = {id(layer.node) for layer in layers_of(graph) if rescalable(layer)}
        for node in graph:
            if id(node) not in layers:
                self._join(node)

    def groups(self) -> ChannelGroups:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        size = len(self._fixed)
        ones, others = (np.concatenate([pair[i] for pair in self._edges] or [np.zeros(0, np.int64)]) for i in (0, 1))
        edges = coo_array((np.ones(len(ones), np.int8), (ones, others)), shape=(size, size))
        count, labels = connected_components(edges, directed=False) if size else (0, np.zeros(0, np.int64))
        fixed = np.zeros(count, bool)
        fixed[labels[self._fixed]] = True
        labels = np.where(fixed[labels], FIXED, labels).astype(np.int64)
        of = {self._names[key]: labels[first : first + self._sizes[key]] for key, first in self._first.items()}
        return ChannelGroups(of, count)

    def _channels(self, value: ir.Value | None) -> Indices | None:
        first = None if value is None else self._first.get(id(value))
        return None if first is None else np.arange(first, first + self._sizes[id(value)])

    def _fix(self, value: ir.Value | None) -> None:
        if (channels := self._channels(value)) is not None:
            self._fixed[channels] = True

    def _join(self, node: ir.Node) -> None:
        """Ties what a node reads and writes, and fixes what it neither ties nor is a constant."""
        pairs = [] if node.domain else list(self._tied(node))
        tied = {id(value) for pair in pairs for value in pair[:2]}
        self._edges += [pair[2:] for pair in pairs]
        for value in (*reads(node), *node.outputs):
            if id(value) not in tied:
                self._fix(value)

    def _tied(self, node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, Indices, Indices]]:
        output, kind = node.outputs[0], node.op_type
        data = [value for value in node.inputs if value is not None and not is_constant(value)]
        if kind in _SUMS:
            pairs = [pair for value in data for pair in self._aligned(value, output)]
            # What is added to every channel alike, a constant or a map of one, ties its result to none of them.
            if len(pairs) == len(node.inputs):
                yield from pairs
        elif kind == "Mul" and len(data) == 2 and data[0] is not data[1]:
            yield from self._aligned(data[1] if _is_gate(data[0]) else data[0], output)
        elif kind in ("Mul", "Div") and len(data) == 1 and (kind == "Mul" or data[0] is node.inputs[0]):
            yield from self._aligned(data[0], output)
        elif kind in _HOMOGENEOUS or (kind in _SPATIAL and _keeps_channels(node)):
            yield from self._same(node.inputs[0], output)
        elif kind == "Concat" and _along_channels(node):
            yield from self._laid_out(data, output)
        elif kind == "Split" and _along_channels(node) and node.inputs[0] is not None:
            yield from ((b, a, j, i) for a, b, i, j in self._laid_out(node.outputs, node.inputs[0]))

    def _aligned(self, one: ir.Value, other: ir.Value) -> Iterator[tuple[ir.Value, ir.Value, Indices, Indices]]:
        """As :meth:`_same`, where shapes may be broadcast: axis 1 of a tensor of fewer axes meets another one."""
        if len(static_dims(one)) == len(static_dims(other)):
            yield from self._same(one, other)

    def _same(self, one: ir.Value | None, other: ir.Value) -> Iterator[tuple[ir.Value, ir.Value, Indices, Indices]]:
        from_, to = self._channels(one), self._channels(other)
        if one is not None and from_ is not None and to is not None and len(from_) == len(to):
            yield one, other, from_, to

    def _laid_out(
        self, parts: Sequence[ir.Value], whole: ir.Value
    ) -> Iterator[tuple[ir.Value, ir.Value, Indices, Indices]]:
        channels = self._channels(whole)
        sizes = [self._sizes.get(id(value)) for value in parts]
        if channels is None or None in sizes or sum(size or 0 for size in sizes) != len(channels):
            return
        start = 0
        for value in parts:
            own = self._channels(value)
            assert own is not None
            yield value, whole, own, channels[start : start + len(own)]
            start += len(own)


def _is_gate(value: ir.Value) -> bool:
    maker = root_of(value).producer()
    return is_pooled(value) or (maker is not None and maker.op_type in GATES)


def _keeps_channels(node: ir.Node) -> bool:
    """Whether an operation that may move values leaves channel c of its input in place c of axis 1."""
    read, written = static_dims(node.inputs[0]), static_dims(node.outputs[0])
    if len(read) < 2 or len(written) < 2 or read[1] != written[1] or read[:1] != written[:1]:
        return False
    if node.op_type.startswith("Reduce"):
        return min(reduced_axes(node, len(read)), default=0) >= 2
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") in ("nearest", "linear")
    return is_pooled(node.inputs[0]) and is_pooled(node.outputs[0])


def _along_channels(node: ir.Node) -> bool:
    rank = len(static_dims(node.outputs[0]))
    return rank >= 2 and node.attributes.get_int("axis", 0) % rank == 1
