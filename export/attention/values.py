"""What the recogniser knows about a tensor: which channels of which feature maps it holds, and what gates them.

The values of :mod:`radixrt.export.attention.interpret`. The batch axis is left out of every array here; ``batch``
says where it stands, which is in front unless someone stacked tensors along a new first axis. "(N, *dims)" below means
batch in front:

- :class:`View`: a wide tensor (N, *dims, *spatial) each of whose maps is one channel of a source feature map.
- :class:`Gated`: a wide tensor whose maps are sums of source channels, each times an element of a gate.
- :class:`Small`: a tensor (N, *dims) without space: an affine function of pooled channels and activations.
- :class:`Opaque`: a small tensor made from a pooled one in a way that is not understood, and why.

Layout operators are not written a second time: ONNX's reference operator runs on the numbers of the elements instead of
on the elements (:func:`relocate`), which tells where each went.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from radixrt.export.attention.affine import Affine, Ints
from radixrt.export.graph.shapes import Concrete

AXIS_OPS = frozenset({"Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Concat"})
LAYOUT_OPS = AXIS_OPS | {"Reshape", "Flatten"}

# Layout is traced at a batch of its own: large enough that no axis is taken for it by chance of being of size one.
_SAMPLES = 3


@dataclass(frozen=True, eq=False)
class Source:
    """A feature map of the graph: ``value`` (N, channels, H, W), or (N, *dims, H, W) counted as channels in C order.

    Attributes:
        terms: where the map is itself a sum of channels of other maps, those channels: ``value = scale * sum(terms)``.
    """

    value: ir.Value
    channels: int
    terms: tuple[View, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class View:
    """``source[i]`` (an index into ``sources``) and ``channel[i]`` say what map ``i`` is; both have shape ``dims``."""

    sources: tuple[Source, ...]
    source: Ints
    channel: Ints
    spatial: tuple[int, ...]
    batch: int = 0

    @property
    def dims(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def run(self) -> tuple[Source, int] | None:
        """The source and first channel of a view (N, C, H, W) of consecutive channels of one source; else None."""
        numbers, places = self.channel.ravel(), self.source.ravel()
        if (
            len(self.dims) != 1
            or (places != places[0]).any()
            or (numbers != numbers[0] + np.arange(numbers.size)).any()
        ):
            return None
        return self.sources[int(places[0])], int(numbers[0])

    def take(self, moved: Moved) -> View:
        """The maps numbered ``moved.index``, an array whose shape becomes ``dims``."""
        index = moved.index
        return View(self.sources, self.source.ravel()[index], self.channel.ravel()[index], moved.spatial, moved.batch)


@dataclass(frozen=True, eq=False)
class Small:
    """``vector`` in C order has shape ``dims``; ``spread`` marks one that an Expand repeats over space, for a Mul."""

    vector: Affine
    dims: tuple[int, ...]
    spread: bool = False
    batch: int = 0


@dataclass(frozen=True, eq=False)
class Plane:
    """One term of a gated sum: map ``i`` of ``view`` times element ``gate_index[i]`` of ``gate``."""

    view: View
    gate: Affine
    gate_index: Ints

    def take(self, moved: Moved) -> Plane:
        return Plane(self.view.take(moved), self.gate, self.gate_index.ravel()[moved.index])


@dataclass(frozen=True, eq=False)
class Gated:
    """The sum of ``planes``, whose dims are all the same."""

    planes: tuple[Plane, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        return self.planes[0].view.dims

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.planes[0].view.spatial

    @property
    def batch(self) -> int:
        return self.planes[0].view.batch

    @property
    def plain(self) -> bool:
        """Whether it is (N, C, H, W) and each term a run of channels."""
        if len(self.dims) != 1 or len(self.spatial) != 2 or self.batch:
            return False
        return all(plane.view.run is not None for plane in self.planes)

    def take(self, moved: Moved) -> Gated:
        return Gated(tuple(plane.take(moved) for plane in self.planes))


@dataclass(frozen=True, eq=False)
class Opaque:
    """A tensor without space that hangs on a pooled one; ``reason`` says which node was not understood."""

    reason: str


Abstract = View | Gated | Small | Opaque


@dataclass(frozen=True, eq=False)
class Moved:
    """``index`` (shape: the new dims) numbers the elements of the old tensor; the rest is the new tensor's."""

    index: Ints
    spatial: tuple[int, ...] = ()
    batch: int = 0


def without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape less its axis ``axis``."""
    return shape[:axis] + shape[axis + 1 :]


def dims_axis(axis: int, rank: int, batch: int) -> int | None:
    """Where axis ``axis`` of a tensor of ``rank`` axes stands in its dims; None for the batch axis."""
    place = axis % rank
    return None if place == batch else place - (place > batch)


def gate_index(gate: Small, view: View) -> Ints | None:
    """Which element of ``gate`` meets each map of ``view``."""
    space = len(view.spatial)
    dims = gate.dims if gate.spread else gate.dims[: len(gate.dims) - space]
    if not gate.spread and (len(gate.dims) != len(view.dims) + space or any(d != 1 for d in gate.dims[-space:])):
        return None
    if gate.batch != view.batch:
        return None
    try:
        return np.broadcast_to(np.arange(gate.vector.size, dtype=np.int64).reshape(dims), view.dims)
    except ValueError:
        return None


def relocate(node: ir.Node, old: View | Gated | Small, found: Concrete) -> list[Moved] | None:
    """Where a layout operator puts the elements of its first input.

    Returns: For each output the number of the element at each place; None where the operator mixes samples, touches
        space, or is not a layout operator.
    """
    data = node.inputs[0]
    if data is None or data.name is None:
        return None
    dims, spatial = old.dims, () if isinstance(old, Small) else old.spatial
    if node.op_type in ("Reshape", "Flatten"):
        return _reshape(found.shapes[data], found.shapes.get(node.outputs[0]), dims, spatial, old.batch)
    feeds = _other_inputs(node, found)
    if feeds is None or not _keeps_space(node, len(dims), len(spatial), found):
        return None
    count = prod(dims)
    numbers = np.moveaxis(np.arange(_SAMPLES * count, dtype=np.int64).reshape(_SAMPLES, *dims), 0, old.batch)
    numbers = numbers.reshape(numbers.shape + (1,) * len(spatial))
    try:
        results = ReferenceEvaluator(ir.serde.serialize_node(node)).run(None, {data.name: numbers, **feeds})
    except Exception:  # the reference operators raise whatever numpy does
        return None
    moved = []
    for value, result in zip(node.outputs, results, strict=False):
        shape = found.shapes.get(value)
        end = result.ndim - len(spatial)
        placed = _one_sample(result.reshape(result.shape[:end]), count)
        if shape is None or placed is None or len(shape) != result.ndim or shape[end:] != spatial:
            return None
        index, batch = placed
        if index.shape != without(shape[:end], batch):
            return None
        moved.append(Moved(index, spatial, batch))
    return moved


def _reshape(
    before: tuple[int, ...], after: tuple[int, ...] | None, dims: tuple[int, ...], spatial: tuple[int, ...], batch: int
) -> list[Moved] | None:
    """A Reshape that leaves the batch, what stands before it, and space alone, or flattens or unflattens space."""
    lead = batch + 1
    if after is None or after[:lead] != before[:lead]:
        return None
    numbers = np.arange(prod(dims), dtype=np.int64)
    for rank in (len(spatial), 3 - len(spatial)) if spatial else (0,):
        end = len(after) - rank
        space = after[end:]
        if end >= lead and prod(space) == prod(spatial) and prod(without(after[:end], batch)) == numbers.size:
            return [Moved(numbers.reshape(without(after[:end], batch)), space, batch)]
    return None


def _other_inputs(node: ir.Node, found: Concrete) -> dict[str, np.ndarray] | None:
    feeds = {}
    for value in node.inputs[1:]:
        if value is None:
            continue
        array = found.constant(value)
        if array is None or value.name is None:
            return None
        feeds[value.name] = array
    return feeds


def _keeps_space(node: ir.Node, dims: int, space: int, found: Concrete) -> bool:
    """Whether an axis operator leaves the spatial axes last and whole."""
    if not space:
        return True
    rank = 1 + dims + space
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", tuple(reversed(range(rank))))
        return tuple(perm[-space:]) == tuple(range(rank - space, rank))
    axes = axes_of(node, found)
    if axes is None:
        return node.op_type in ("Identity", "Dropout")
    total = rank + len(axes) if node.op_type == "Unsqueeze" else rank
    return all(axis % total < total - space for axis in axes)


def axes_of(node: ir.Node, found: Concrete) -> tuple[int, ...] | None:
    """The axes that a node names, as an attribute (old opsets) or an input; None where it names none."""
    for name in ("axes", "axis"):
        attr = node.attributes.get(name)
        if attr is not None:
            return (attr.as_int(),) if name == "axis" else tuple(attr.as_ints())
    place = {"Slice": 3}.get(node.op_type, 1)
    if node.op_type in ("Split", "Gather"):
        return (0,)
    if node.op_type == "Identity" or node.op_type == "Dropout" or len(node.inputs) <= place:
        return None
    array = found.constant(node.inputs[place])
    return None if array is None else tuple(int(a) for a in np.atleast_1d(array))


def _one_sample(result: np.ndarray, count: int) -> tuple[Ints, int] | None:
    """One sample's numbers and the batch axis, where every sample was treated alike and apart."""
    for axis in range(result.ndim):
        samples = np.moveaxis(result, axis, 0)
        if len(samples) != _SAMPLES:
            continue
        offsets = np.arange(_SAMPLES, dtype=np.int64).reshape(-1, *[1] * (result.ndim - 1)) * count
        if np.array_equal(samples, samples[:1] + offsets):
            return samples[0], axis
    return None
