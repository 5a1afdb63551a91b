"""What the recogniser knows about a tensor: which channels of which feature maps it holds, and what gates them.

The values of :mod:`radixrt.export.interpret`. Batch is always axis 0 and is left out of every array here:

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

from radixrt.export.affine import Affine, Ints
from radixrt.export.concrete import Concrete

AXIS_OPS = frozenset({"Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Dropout", "Concat"})
LAYOUT_OPS = AXIS_OPS | {"Reshape", "Flatten"}


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

    @property
    def dims(self) -> tuple[int, ...]:
        return self.source.shape

    def take(self, index: Ints, spatial: tuple[int, ...] | None = None) -> View:
        """The maps numbered ``index``, an array whose shape becomes ``dims``."""
        return View(
            self.sources,
            self.source.ravel()[index],
            self.channel.ravel()[index],
            self.spatial if spatial is None else spatial,
        )


@dataclass(frozen=True, eq=False)
class Small:
    """``vector`` in C order has shape ``dims``; ``spread`` marks one that an Expand repeats over space, for a Mul."""

    vector: Affine
    dims: tuple[int, ...]
    spread: bool = False


@dataclass(frozen=True, eq=False)
class Plane:
    """One term of a gated sum: map ``i`` of ``view`` times element ``gate_index[i]`` of ``gate``."""

    view: View
    gate: Affine
    gate_index: Ints

    def take(self, index: Ints, spatial: tuple[int, ...] | None = None) -> Plane:
        return Plane(self.view.take(index, spatial), self.gate, self.gate_index.ravel()[index])


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


@dataclass(frozen=True, eq=False)
class Opaque:
    """A tensor without space that hangs on a pooled one; ``reason`` says which node was not understood."""

    reason: str


Abstract = View | Gated | Small | Opaque


def relocate(node: ir.Node, dims: tuple[int, ...], spatial: tuple[int, ...], found: Concrete) -> list[Moved] | None:
    """Where a layout operator puts the elements of its first input (N, *dims, *spatial).

    Returns:
        For each output its spatial shape and the number of the element at each place; None where the operator mixes
        samples, touches space, or is not a layout operator.
    """
    data = node.inputs[0]
    if data is None or data.name is None:
        return None
    batch = found.shapes[data][0]
    count = prod(dims)
    if node.op_type in ("Reshape", "Flatten"):
        return _reshape(node, dims, spatial, found)
    feeds = _other_inputs(node, found)
    if feeds is None or not _keeps_space(node, len(dims), len(spatial), found):
        return None
    numbers = np.arange(batch * count, dtype=np.int64).reshape(batch, *dims, *[1] * len(spatial))
    try:
        results = ReferenceEvaluator(ir.serde.serialize_node(node)).run(None, {data.name: numbers, **feeds})
    except Exception:  # the reference operators raise whatever numpy does
        return None
    moved = []
    for value, result in zip(node.outputs, results, strict=False):
        shape = found.shapes.get(value)
        space = len(spatial)
        if shape is None or result.shape[: result.ndim - space] != shape[: len(shape) - space]:
            return None
        index = _one_sample(result.reshape(result.shape[: result.ndim - space]), batch, count)
        if index is None or (space and shape[-space:] != spatial):
            return None
        moved.append(Moved(index, spatial))
    return moved


@dataclass(frozen=True, eq=False)
class Moved:
    """``index`` (shape: the new dims) numbers the elements of the old tensor; ``spatial`` is the new spatial shape."""

    index: Ints
    spatial: tuple[int, ...]


def _reshape(node: ir.Node, dims: tuple[int, ...], spatial: tuple[int, ...], found: Concrete) -> list[Moved] | None:
    before = found.shapes.get(node.inputs[0]) if node.inputs[0] is not None else None
    after = found.shapes.get(node.outputs[0])
    if before is None or not after or after[0] != before[0]:
        return None
    count = prod(dims)
    for rank in (
        (len(spatial), 3 - len(spatial)) if spatial else (0,)
    ):  # space as it was; or H, W flattened or unflattened
        end = len(after) - rank
        space = after[end:]
        if end >= 1 and prod(space) == prod(spatial) and prod(after[1:end]) == count and rank <= 2:
            return [Moved(np.arange(count, dtype=np.int64).reshape(after[1:end]), space)]
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
    """Whether an axis operator leaves the batch first and the spatial axes last and whole."""
    if not space:
        return True
    rank = 1 + dims + space
    if node.op_type == "Transpose":
        perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else tuple(reversed(range(rank)))
        return tuple(perm[-space:]) == tuple(range(rank - space, rank))
    axes = axes_of(node, found)
    if axes is None:
        return node.op_type in ("Identity", "Dropout")
    total = rank + len(axes) if node.op_type == "Unsqueeze" else rank
    return all(0 < axis % total < total - space for axis in axes)


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


def _one_sample(result: np.ndarray, batch: int, count: int) -> Ints | None:
    """The first sample's numbers, where every sample was treated alike and apart."""
    if result.ndim == 0 or result.shape[0] != batch:
        return None
    samples = np.arange(batch, dtype=np.int64).reshape(-1, *[1] * (result.ndim - 1)) * count
    first: Ints = result[0]
    return first if np.array_equal(result, first[None] + samples) else None
