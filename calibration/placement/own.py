"""The pairs of a file that is quantised already, put back where they stood once its float32 graph was rewritten.

::

    the file  ──► pairs taken off ──► attention and convolutions rewritten ──► its own pairs, on what is still there
         └──────────────► own_pairs: scale and zero point by tensor, integers by weight ───────────────┘

Nothing is calibrated and no rule of placement is asked: what the file leaves in float stays in float. A tensor is known
by its name, and by its numbers on a sample: one that the rewriting changed gets no pair. A weight is known by its
numbers. What the rewriting made new, such as the fully connected layers of an attention block, stays in float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import UNSIGNED_ZERO_POINT, Grid
from radixrt.calibration.placement.decision import Decision
from radixrt.calibration.placement.insert import Inserter, Integers
from radixrt.calibration.placement.options import KeptFloat, PlacementReport
from radixrt.calibration.placement.round_trips import round_trips
from radixrt.errors import InputError
from radixrt.export.feed import Feed
from radixrt.export.graph.facts import commutes, infer
from radixrt.export.graph.layers import Layer, layers_of
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.session import GraphSession
from radixrt.export.graph.shapes import Concrete, Sizes, concretise
from radixrt.export.reader.quantised import RANGE
from radixrt.export.spec import Traits

_SAME = 1e-3
"""How far a tensor may be from what it was, as a share of its largest number: float32 adds up in another order."""


@dataclass(frozen=True)
class OwnPair:
    """The pair of one tensor.

    Attributes:
        grid: its numbers.
        clip: the tensor that has the pair in its stead where a Clip took the pair off: the pair was a ReLU, too.
        bare: the nodes that read the tensor itself and not what the pair makes.
    """

    grid: Grid
    clip: str
    bare: frozenset[str]


@dataclass(frozen=True)
class OwnPairs:
    """What a file says of its own quantisation.

    Attributes:
        tensors: pairs by the name of the tensor that they stand on.
        weights: integers by the float32 numbers, in bytes, that they stand for.
    """

    tensors: Mapping[str, OwnPair]
    weights: Mapping[bytes, Integers]


def own_pairs(model: ir.Model) -> OwnPairs:
    """Reads the pairs off a file's graph, from which they can be taken: their halves agree and have constant scales."""
    found = concretise(model.graph, Sizes())
    tensors: dict[str, OwnPair] = {}
    weights: dict[bytes, Integers] = {}
    for node in model.graph:
        made, source = node.outputs[0], node.inputs[0] if node.inputs else None
        if node.op_type == "QuantizeLinear" and made not in found.folded and source is not None:
            readers = (reader.name or "" for reader in source.consumers() if reader.op_type != "QuantizeLinear")
            pair = OwnPair(_grid(node, found), f"{made.name}{RANGE}", frozenset(readers))
            tensors.setdefault(source.name or "", pair)
        elif node.op_type == "DequantizeLinear" and made in found.folded:
            array, scale = found.constant(source), found.constant(node.inputs[1])
            zero = found.constant(node.inputs[2]) if len(node.inputs) > 2 else None
            array = None if array is None else _in_bytes(array)
            if array is not None and scale is not None and scale.ndim < 2:
                zeros = np.zeros(scale.shape, array.dtype) if zero is None else zero.astype(array.dtype)
                axis = node.attributes.get_int("axis", 1) % max(array.ndim, 1)
                own = Integers(array, scale.astype(np.float32), zeros, axis)
                weights[_numbers(found.folded[made])] = own.signed()
    return OwnPairs(tensors, weights)


def place_own(
    model: ir.Model, before: ir.Model, own: OwnPairs, sample: Feed, traits: Traits
) -> tuple[ir.Model, PlacementReport, str]:
    """Puts a file's own pairs into its rewritten graph.

    Args:
        model: the rewritten float32 graph; not changed.
        before: the float32 graph before it was rewritten.
        own: what :func:`own_pairs` read off the file.
        sample: inputs of both graphs.
        traits: the target's.

    Returns:
        the INT8 graph, what was done, and a sentence on it.

    Raises:
        InputError: the target takes no such zero point.
    """
    placed = infer(model.clone())
    points = _points(placed, before, own, sample)
    inside = {id(value) for value, _ in points}
    layers, kept, weights = [], [], []
    for layer in layers_of(placed.graph):
        integers = _integers_of(layer, own)
        if integers is not None:
            weights.append((layer, integers))
        if integers is not None and _reads(layer, inside):
            layers.append(layer)
        else:
            why = _NO_PAIR if integers is None else _WEIGHTS_ALONE
            kept.append(KeptFloat(layer.name, module_of(layer.node), why))
    inserter = Inserter(placed.graph)
    for layer, integers in weights:
        _demand(traits, f"the weight of {layer.name}", unsigned=not integers.symmetric)
        inserter.integers(layer, integers)
    for value, pair in points:
        _demand(traits, value.name or "", unsigned=pair.grid.unsigned)
        inserter.activation(value, pair.grid, bare=frozenset() if value.name == pair.clip else pair.bare)
    decision = Decision(tuple(layers), tuple(kept), tuple(value for value, _ in points))
    report = PlacementReport(
        quantized=tuple(layer.name for layer in layers),
        kept_float=decision.kept,
        points=tuple(value.name or "" for value in decision.points),
        round_trips=round_trips(decision),
    )
    said = (
        f"The file's own pairs are kept: {len(points)} of {len(own.tensors)} on activations and {len(weights)} of "
        f"{len(own.weights)} on weights; the others stood on what the rewriting made anew, which stays in float."
    )
    return placed, report, said


_NO_PAIR = "the file, or what the rewriting left of it, has no pair for it"
_WEIGHTS_ALONE = "nothing that it reads has a pair"


def _grid(node: ir.Node, found: Concrete) -> Grid:
    """The grid of a QuantizeLinear; s8 around another number than 0 is spelled as u8, with the same numbers."""
    scale = found.constant(node.inputs[1])
    zero = found.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    assert scale is not None
    if node.outputs[0].dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        raise InputError(
            f"{node.inputs[0].name} is quantised to {node.outputs[0].dtype}, of which INT8 keeps no pair: leave "  # type: ignore[union-attr]
            "--own-pairs keep out, and ranges are chosen anew"
        )
    offset = 0 if zero is None else int(zero.item())
    unsigned_offset = offset if zero is None or zero.dtype == np.uint8 else offset + UNSIGNED_ZERO_POINT
    symmetric = unsigned_offset == UNSIGNED_ZERO_POINT
    return Grid(float(scale.item()), 0 if symmetric else unsigned_offset, unsigned=not symmetric)


def _points(model: ir.Model, before: ir.Model, own: OwnPairs, sample: Feed) -> list[tuple[ir.Value, OwnPair]]:
    """The tensors of ``model`` that have a pair of the file's, in graph order, and compute what they did ``before``."""
    where = {**own.tensors} | {pair.clip: pair for pair in own.tensors.values()}
    graph = model.graph
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    clips = {value.name for value in values if value.name in where}
    there = [v for v in values if v.name in where and (v.name == where[v.name].clip or where[v.name].clip not in clips)]
    names = [value.name or "" for value in there if not value.is_graph_input()]
    old, new = (GraphSession(m, names).over(sample, names) for m in (before, model))
    same = {name for name in names if _close(old.get(name), new[name])}
    return [(v, where[v.name or ""]) for v in there if v.is_graph_input() or v.name in same]


def _close(old: NDArray[Any] | None, new: NDArray[Any]) -> bool:
    if old is None or old.shape != new.shape:
        return False
    return bool(np.abs(old - new).max(initial=0.0) <= _SAME * np.abs(old).max(initial=0.0))


def _reads(layer: Layer, points: set[int]) -> bool:
    """Whether what a layer reads has a pair, before it was moved or behind."""
    value: ir.Value | None = layer.data
    while value is not None:
        if id(value) in points:
            return True
        maker = value.producer()
        value = maker.inputs[0] if maker is not None and commutes(maker) else None
    return False


def _integers_of(layer: Layer, own: OwnPairs) -> Integers | None:
    """The file's integers for a layer's weights, in their shape; None where no weight of the file has its numbers."""
    if (found := own.weights.get(_numbers(layer.weight))) is not None:
        along = found.axis + 1
        same = found.axis == layer.axis and found.array.shape[:along] == layer.weight.shape[:along]
        whole = replace(found, array=found.array.reshape(layer.weight.shape))
        return whole.per_channel(layer.axis) if same or found.scale.size == 1 else None
    found = own.weights.get(_numbers(layer.weight.T)) if layer.weight.ndim == 2 else None
    if found is None or found.array.ndim != 2 or (found.scale.size > 1 and found.axis == layer.axis):
        return None
    return replace(found, array=found.array.T).per_channel(layer.axis)


def _in_bytes(array: NDArray[Any]) -> NDArray[Any] | None:
    """Integers of eight bits or four, in eight; None where they are wider."""
    kinds = {"int8": np.int8, "int4": np.int8, "uint8": np.uint8, "uint4": np.uint8}
    return array.astype(kinds[array.dtype.name]) if array.dtype.name in kinds else None


def _numbers(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, np.float32).tobytes()


def _demand(traits: Traits, what: str, *, unsigned: bool) -> None:
    if unsigned and not traits.full_range_u8:
        raise InputError(
            f"{what} is quantised around another number than 0, which {traits.title} does not take: leave "
            "--own-pairs keep out, and ranges are chosen anew"
        )
