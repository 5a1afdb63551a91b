"""Reads a graph as pooled channels, activations and gates: the recogniser's abstract interpretation.

Every node is visited once, in order. The result says of each tensor what :mod:`radixrt.export.attention.values` can say
of it; a feature map that nothing is known of is its own source. Wide tensors are handled here, small ones in
:mod:`radixrt.export.attention.interpret_gate`. No spelling of a block is looked for: whatever route the numbers take,
their provenance comes out the same.
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

from radixrt.export.attention.affine import Pooled, PoolKind, identity, roots, stack
from radixrt.export.attention.interpret_gate import small_node
from radixrt.export.attention.values import (
    LAYOUT_OPS,
    Abstract,
    Gated,
    Moved,
    Opaque,
    Plane,
    Small,
    Source,
    View,
    axes_of,
    dims_axis,
    gate_index,
    relocate,
    without,
)
from radixrt.export.graph.shapes import Concrete

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class Interpretation:
    """What each value of a graph is; made by :func:`interpret`.

    Attributes:
        known: what is known of the values that are not plain feature maps.
        gates: the multiplications of a feature map by one number for each channel, and why one is no block's where
            that shows here.
    """

    def __init__(self, found: Concrete) -> None:
        self.found = found
        self.known: dict[ir.Value, Abstract] = {}
        self.gates: dict[ir.Node, str] = {}
        self._sources: dict[ir.Value, Source] = {}
        self._pools: dict[tuple[PoolKind, ir.Value], Pooled] = {}

    def wide(self, value: ir.Value | None) -> View | None:
        """``value`` as a view of feature maps; a gated tensor counts as a feature map of its own."""
        if value is None:
            return None
        known = self.known.get(value)
        if isinstance(known, View):
            return known
        shape = self.found.shapes.get(value)
        if isinstance(known, Small | Opaque) or shape is None or len(shape) != 4 or value in self.found.folded:
            return None
        if value.const_value is not None or ir.DataType(self.found.types[value].tensor_type.elem_type) not in _FLOATS:
            return None
        source = self._sources.setdefault(value, Source(value, shape[1]))
        return _whole(source, (shape[1],), shape[2:])

    def whole(self, value: ir.Value | None) -> View | None:
        """Like :meth:`wide`, but a concatenation or a shuffle of other maps counts as a feature map of its own."""
        view = self.wide(value)
        if value is None or view is None or view.batch or len(view.dims) != 1 or view.run is not None:
            return view
        shape = self.found.shapes[value]
        if len(shape) != 4:
            return view
        return _whole(self._sources.setdefault(value, Source(value, shape[1])), (shape[1],), shape[2:])

    def summed(self, value: ir.Value, terms: tuple[View, ...], scale: float = 1.0) -> None:
        """Records that ``value`` is ``scale`` times the sum of ``terms``."""
        dims = terms[0].dims
        source = Source(value, prod(dims), terms, scale)
        self._sources[value] = source
        self.known[value] = _whole(source, dims, terms[0].spatial, terms[0].batch)

    def pooled(self, kind: PoolKind, view: View, dims: tuple[int, ...], factor: float = 1.0) -> Small:
        """The channels of ``view``, reduced over space."""
        bases = [
            identity(self._pools.setdefault((kind, s.value), Pooled(kind, s.value, s.channels))) for s in view.sources
        ]
        starts = np.cumsum([0, *(s.channels for s in view.sources)])[:-1]
        vector = stack(bases).take((starts[view.source] + view.channel).ravel())
        if factor != 1.0:
            vector = vector.scale(np.full(vector.size, factor))
        return Small(vector, dims)

    def source_of(self, value: ir.Value) -> Source | None:
        return self._sources.get(value)


def _whole(source: Source, dims: tuple[int, ...], spatial: tuple[int, ...], batch: int = 0) -> View:
    channel = np.arange(source.channels, dtype=np.int64).reshape(dims)
    return View((source,), np.zeros(dims, np.int64), channel, spatial, batch)


def interpret(graph: ir.Graph, found: Concrete) -> Interpretation:
    """Interprets every node of ``graph``, whose nodes stand in topological order."""
    state = Interpretation(found)
    for node in graph:
        if all(v in found.folded for v in node.outputs):
            continue
        if found.shapes.get(node.outputs[0]) is None:
            _unknown(node, state)
            continue
        known = _squeeze(node, state) or _wide_node(node, state) or small_node(node, state)
        known or _other_rank(node, state) or _unknown(node, state)
    return state


def _other_rank(node: ir.Node, state: Interpretation) -> bool:
    """A pool over a map of one or three axes of space, and the multiplication by what became of it."""
    value = node.inputs[0]
    shape = state.found.shapes.get(value) if value is not None else None
    if shape is not None and node.op_type == "GlobalAveragePool" and len(shape) != 4:
        axes = {3: "one axis", 5: "three axes"}.get(len(shape), "other axes")
        state.known[node.outputs[0]] = Opaque(f"its feature map has {axes} of space, not two")
        return True
    if node.op_type != "Mul":
        return False
    for wide, small in (node.inputs, reversed(node.inputs)):
        if wide is None or small is None:
            return False
        gate, sides, spread = state.known.get(small), *(state.found.shapes.get(v, ()) for v in (wide, small))
        alone = prod(sides[2:]) > 1 and prod(spread[2:]) == 1 and sides[:2] == spread[:2]
        if isinstance(gate, Opaque) and wide not in state.known and len(sides) in (3, 5) and alone:
            state.gates[node] = gate.reason
            return True
    return False


def _unknown(node: ir.Node, state: Interpretation) -> bool:
    """A node that is not understood passes on that its output hangs on a pool, unless it makes a new feature map.

    It makes one where it takes another map in, or where it has space to spread the pooled numbers over; an Expand over
    space (expand_as) is still a gate.
    """
    for value in node.inputs:
        known = state.known.get(value) if value is not None else None
        if isinstance(known, Small | Opaque):
            reason = known.reason if isinstance(known, Opaque) else _why_unknown(node, known, state)
            for output in node.outputs:
                if node.op_type == "Expand" or not _makes_a_map(node, output, state):
                    state.known[output] = Opaque(reason)
            return True
    return True


def _makes_a_map(node: ir.Node, output: ir.Value, state: Interpretation) -> bool:
    shape = state.found.shapes.get(output)
    if shape is None or len(shape) < 4 or prod(shape[2:]) == 1 or prod(shape[1:-1]) == 1:
        return False
    fed = [v for v in node.inputs if v is not None and state.found.constant(v) is None]
    if not all(isinstance(state.known.get(v), Small | Opaque) for v in fed):
        return True
    return prod(shape) > sum(prod(state.found.shapes.get(v, ())) for v in fed)


def _why_unknown(node: ir.Node, small: Small, state: Interpretation) -> str:
    # One channel in, and the channels of the feature map along an axis that the window slides over.
    if node.op_type == "Conv" and small.dims[0] == 1 and small.vector.size > 1:
        return "Conv between pool and gate slides over the channels (ECA): the same as an FC would be dense and dearer"
    return f"{node.op_type} between pool and gate is not understood"


def _squeeze(node: ir.Node, state: Interpretation) -> bool:
    """A reduction of a view over all of space and nothing else."""
    kinds: dict[str, PoolKind] = {
        "GlobalAveragePool": "avg", "ReduceMean": "avg", "AveragePool": "avg", "ReduceSum": "avg",
        "GlobalMaxPool": "max", "ReduceMax": "max", "MaxPool": "max",
    }  # fmt: skip
    kind = kinds.get(node.op_type)
    if kind is not None and (reason := _other_axes(node, state)) is not None:
        state.known[node.outputs[0]] = Opaque(reason)
        return True
    view = state.whole(_start(node, state)) if kind is not None else None
    if kind is None or view is None or view.batch:
        return False
    shape = state.found.shapes[node.outputs[0]]
    if node.op_type.startswith("Reduce"):
        rank = 1 + len(view.dims) + len(view.spatial)
        if _axes_from_start(node, rank, state) != list(range(rank - len(view.spatial), rank)):
            return False
    elif node.op_type in ("AveragePool", "MaxPool"):
        kernel = tuple(node.attributes["kernel_shape"].as_ints())
        padded = any(node.attributes.get_ints("pads", ()))
        dilated = any(d != 1 for d in node.attributes.get_ints("dilations", ()))
        if (
            kernel != view.spatial
            or padded
            or dilated
            or len(node.outputs) != 1
            or prod(shape[2:]) != 1
            or prod(kernel) == 1
        ):
            return False
    factor = float(prod(view.spatial)) if node.op_type == "ReduceSum" else 1.0
    state.known[node.outputs[0]] = state.pooled(kind, view, shape[1:], factor)
    return True


def _other_axes(node: ir.Node, state: Interpretation) -> str | None:
    """Why a reduction of a feature map to one axis beside the batch is no pool over space."""
    value = node.inputs[0]
    axes = axes_of(node, state.found) if node.op_type.startswith("Reduce") else None
    if value is None or axes is None or state.wide(value) is None or len(state.found.shapes[value]) != 4:
        return None
    reduced = sorted(axis % 4 for axis in axes)
    if len(reduced) != 2 or reduced[0] == 0 or reduced == [2, 3]:
        return None
    shape = " x ".join(["N", *map(str, state.found.shapes[value][1:])])
    space = "space only in a channels-last map" if reduced == [1, 2] else "not space"
    return f"its pool runs over axes {reduced[0]} and {reduced[1]} of {shape}, which is {space}"


def _start(node: ir.Node, state: Interpretation) -> ir.Value | None:
    """What ``node`` reduces; through a first reduction of the same kind, for ``x.mean(-1).mean(-1)`` is one squeeze."""
    value = node.inputs[0]
    first = value.producer() if value is not None else None
    if first is not None and first.op_type == node.op_type and node.op_type.startswith("Reduce"):
        before = state.wide(first.inputs[0])
        axes = axes_of(first, state.found)
        if before is not None and axes is not None:
            space = range(1 + len(before.dims), 1 + len(before.dims) + len(before.spatial))
            if all(a % space.stop in space for a in axes):
                return first.inputs[0]
    return value


def _axes_from_start(node: ir.Node, rank: int, state: Interpretation) -> list[int] | None:
    """The axes that ``node``, and the reduction before it that :func:`_start` stepped over, take from ``rank`` axes."""
    axes = axes_of(node, state.found)
    value = node.inputs[0]
    if axes is None or value is None:
        return None
    first = value.producer()
    if first is None or _start(node, state) is value:
        return sorted(a % rank for a in axes)
    before = axes_of(first, state.found)
    if before is None:
        return None
    gone = {a % rank for a in before}
    kept = first.attributes.get_int("keepdims", 1)
    left = list(range(rank)) if kept else [a for a in range(rank) if a not in gone]
    return sorted(gone | {left[a % len(left)] for a in axes})


def _wide_node(node: ir.Node, state: Interpretation) -> bool:
    if node.op_type in LAYOUT_OPS:
        return _layout(node, state)
    if node.op_type == "Mul":
        return _gate(node, state) or _scaled(node, state)
    if node.op_type in ("Add", "Sum"):
        return _add(node, state)
    if node.op_type in ("ReduceSum", "ReduceMean"):
        return _reduce(node, state)
    return False


def _layout(node: ir.Node, state: Interpretation) -> bool:
    first = state.known.get(node.inputs[0]) if node.inputs[0] is not None else None
    if node.op_type == "Concat":
        return _concat(node, state)
    wide = first if isinstance(first, Gated) else state.wide(node.inputs[0])
    if wide is None:
        return False
    moved = relocate(node, wide, state.found)
    if moved is None:
        return False
    for value, move in zip(node.outputs, moved, strict=False):
        state.known[value] = wide.take(move)
    return True


def _concat(node: ir.Node, state: Interpretation) -> bool:
    views = [state.wide(v) for v in node.inputs]
    known = [v for v in views if v is not None]
    if len(known) != len(views) or any(isinstance(state.known.get(v), Gated) for v in node.inputs if v is not None):
        return False
    rank = 1 + len(known[0].dims) + len(known[0].spatial)
    axis = dims_axis(node.attributes["axis"].as_int(), rank, known[0].batch)
    if axis is None or axis >= len(known[0].dims) or len({(v.spatial, v.batch) for v in known}) != 1:
        return False
    sources = tuple(dict.fromkeys(s for v in known for s in v.sources))
    renumbered = [np.asarray([sources.index(s) for s in v.sources], np.int64)[v.source] for v in known]
    state.known[node.outputs[0]] = View(
        sources,
        np.concatenate(renumbered, axis),
        np.concatenate([v.channel for v in known], axis),
        known[0].spatial,
        known[0].batch,
    )
    return True


def _gate(node: ir.Node, state: Interpretation) -> bool:
    """A wide tensor times a small one, in either order."""
    left, right = node.inputs
    for wide, small in ((left, right), (right, left)):
        gate = state.known.get(small) if small is not None else None
        view = state.whole(wide)
        if view is None:
            continue
        if isinstance(gate, Small):
            state.gates[node] = "the gate's shape does not meet the feature map channel by channel"
            if (index := gate_index(gate, view)) is not None:
                state.known[node.outputs[0]] = Gated((Plane(view, gate.vector, index),))
            return True
        reason = gate.reason if isinstance(gate, Opaque) else _not_pooled(state.whole(small), view)
        if reason is not None:
            state.gates[node] = reason
            return True
    return False


def _not_pooled(gate: View | None, view: View) -> str | None:
    """Why a map of one pixel that multiplies a larger one is no block's gate: nothing was pooled that is understood."""
    if gate is None or prod(gate.spatial) != 1 or prod(view.spatial) == 1 or gate.dims != view.dims:
        return None
    return "its gate is not made from an average or a maximum over the whole feature map"


def _scaled(node: ir.Node, state: Interpretation) -> bool:
    """One gated map times a constant, for all channels or for each (NFNet's gains): the gate takes it in.

    A constant behind the sum of several gated maps stays where it is, for their gates are a softmax; so does one with a
    zero in it (a gain before training), behind which there is no gate.
    """
    for value, factor in (node.inputs, reversed(node.inputs)):
        gated = state.known.get(value) if value is not None else None
        constant = state.found.constant(factor)
        if not isinstance(gated, Gated) or constant is None or len(gated.planes) != 1 or not gated.plain:
            continue
        try:
            factors = np.broadcast_to(constant.astype(np.float64), (1, *gated.dims, 1, 1)).ravel()
        except ValueError:
            return False
        if not factors.all():
            return False
        (plane,) = gated.planes
        gate = plane.gate.take(plane.gate_index).scale(factors)
        state.known[node.outputs[0]] = Gated((Plane(plane.view, gate, np.arange(gate.size, dtype=np.int64)),))
        return True
    return False


def _add(node: ir.Node, state: Interpretation) -> bool:
    gated = [state.known.get(v) for v in node.inputs if v is not None]
    found = [g for g in gated if isinstance(g, Gated)]
    if len(found) == len(node.inputs) and len({(g.dims, g.spatial, g.batch) for g in found}) == 1:
        planes = tuple(plane for g in found for plane in g.planes)
        if len({roots(plane.gate) for plane in planes}) == 1:
            state.known[node.outputs[0]] = Gated(planes)
            return True
    views = [state.wide(v) for v in node.inputs]
    known = [v for v in views if v is not None]
    if found or len(known) != len(node.inputs) or len({(v.dims, v.spatial, v.batch) for v in known}) != 1:
        return False
    state.summed(node.outputs[0], tuple(known))
    return True


def _reduce(node: ir.Node, state: Interpretation) -> bool:
    """A sum or mean over axes that are neither batch nor space: the sum over the radix."""
    first = state.known.get(node.inputs[0]) if node.inputs[0] is not None else None
    wide = first if isinstance(first, Gated) else state.wide(node.inputs[0])
    axes = axes_of(node, state.found)
    if wide is None or axes is None:
        return False
    rank = 1 + len(wide.dims) + len(wide.spatial)
    axis = dims_axis(axes[0], rank, wide.batch) if len(axes) == 1 else None
    if axis is None or axis >= len(wide.dims):
        return False
    after = state.found.shapes[node.outputs[0]]
    batch = wide.batch if len(after) == rank or axes[0] % rank > wide.batch else wide.batch - 1
    dims = without(after[: len(after) - len(wide.spatial)], batch)
    count = wide.dims[axis]
    numbers = np.arange(prod(wide.dims), dtype=np.int64).reshape(wide.dims)
    parts = [Moved(np.take(numbers, r, axis).reshape(dims), wide.spatial, batch) for r in range(count)]
    if isinstance(wide, Gated):
        if node.op_type == "ReduceMean":
            return False
        state.known[node.outputs[0]] = Gated(tuple(plane.take(part) for plane in wide.planes for part in parts))
    else:
        scale = 1.0 / count if node.op_type == "ReduceMean" else 1.0
        state.summed(node.outputs[0], tuple(wide.take(part) for part in parts), scale)
    return True
