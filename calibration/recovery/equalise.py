"""Cross-layer equalisation: channels that a per-tensor scale serves badly are rescaled, and the network stays the same.

Before::

    x ──► Conv(W1, b1) ──► Relu ──► h ──► Conv(W2, b2) ──► y

After, with a positive ``s`` for each channel c of h::

    x ──► Conv(W1[c] / s, b1[c] / s) ──► Relu ──► h / s ──► Conv(W2[:, c] * s, b2) ──► y

``relu(h / s) = relu(h) / s``, so y is the same (Nagel et al., "Data-free quantization through weight equalization and
bias correction", 2019, section 4.1). ``s`` is a power of two: dividing by it changes no digit of a float, so y is the
same to the last bit.

All channels of h share one scale, and each row of W2 has one; W1's rows have one each, so they lose nothing. With
``r`` the largest magnitude of a channel of h, and ``w`` the largest share that any row of W2 gives to it, ``s`` is
``sqrt(r / w)`` up to a common factor: both spreads become the same.

Refused: h read by anything else, weights that are shared, and any activation but Relu.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.ranges.table import CalibrationTable, TensorRange
from radixrt.export.graph.constants import array_of
from radixrt.export.graph.facts import infer
from radixrt.export.graph.hash import model_sha256
from radixrt.export.graph.layers import Layer, layers_of

Array = NDArray[Any]

_LARGEST_POWER = 4
"""Channels are divided by at most 2**4: beyond that, one rare activation would decide."""


@dataclass(frozen=True)
class Chain:
    """Two convolutions with nothing but a Relu between them; ``middle`` is what the second reads."""

    first: Layer
    middle: ir.Value
    second: Layer


@dataclass(frozen=True)
class Equalised:
    """A graph that computes what the original does, and the ranges of its tensors.

    Attributes:
        model: the graph.
        table: the ranges; those of rescaled tensors follow from the largest magnitude of each channel.
        divisors: what each output channel of a layer was divided by, shape (C,), by layer name.
    """

    model: ir.Model
    table: CalibrationTable
    divisors: dict[str, NDArray[np.float32]]


def chains(graph: ir.Graph) -> list[Chain]:
    """Every two convolutions that can be equalised, in graph order."""
    layers = {id(layer.node): layer for layer in layers_of(graph) if layer.node.op_type == "Conv"}
    result = []
    for first in layers.values():
        readers = first.output.consumers()
        if len(readers) != 1 or readers[0].op_type != "Relu" or first.output.is_graph_output():
            continue
        middle = readers[0].outputs[0]
        behind = middle.consumers()
        second = layers.get(id(behind[0])) if len(behind) == 1 else None
        if second is None or middle.is_graph_output() or second.data is not middle:
            continue
        if _owned(first, with_bias=True) and _owned(second, with_bias=False):
            result.append(Chain(first, middle, second))
    return result


def equalised(model: ir.Model, table: CalibrationTable, layers: frozenset[str]) -> Equalised | None:
    """Equalises every chain of a graph whose second convolution is quantised.

    Args:
        model: a float32 graph; not changed.
        table: its calibration.
        layers: the names of the layers that are quantised.

    Returns:
        the graph and its ranges, or None where nothing can be gained.
    """
    copy = infer(model.clone())
    divisors: dict[str, NDArray[np.float32]] = {}
    ranges: dict[str, TensorRange] = {}
    for chain in chains(copy.graph):
        middle = table.find(chain.middle.name or "")
        if middle is None or not middle.channel_amax or chain.second.name not in layers:
            continue
        s = _divisors(np.asarray(middle.channel_amax), chain.second)
        if (s == 1).all():
            continue
        _rescale(copy.graph, chain, s)
        divisors[chain.first.name] = s
        ranges[middle.name] = _rescaled(middle, s)
    if not divisors:
        return None
    tensors = tuple(ranges.get(t.name, t) for t in table.tensors)
    changed = table.model_copy(update={"tensors": tensors, "model_sha256": model_sha256(copy)})
    return Equalised(copy, changed, divisors)


def _owned(layer: Layer, *, with_bias: bool) -> bool:
    """Whether the layer's constants are its own, so that changing them changes nothing else."""
    values = layer.node.inputs[1 : 3 if with_bias else 2]
    return all(v is None or (v.is_initializer() and len(v.uses()) == 1) for v in values)


def _divisors(reach: Array, second: Layer) -> NDArray[np.float32]:
    """Powers of two, one for each channel of the middle; 1 where a channel is dead or nobody reads it."""
    share = _shares(second)
    s = np.ones(len(reach))
    alive = (reach > 0) & (share > 0)
    if alive.any():
        wanted = np.log2(reach[alive] / share[alive]) / 2
        s[alive] = np.exp2(np.clip(np.rint(wanted - wanted.mean()), -_LARGEST_POWER, _LARGEST_POWER))
    return s.astype(np.float32)


def _shares(second: Layer) -> Array:
    """For each input channel, the largest share of a row's largest weight that any row gives to it; shape (C,)."""
    # Rows are quantised one by one, so only their shape counts.
    rows = np.abs(second.weight.astype(np.float64)).max(axis=tuple(range(2, second.weight.ndim)))
    rows /= np.maximum(rows.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    groups = rows.reshape(second.groups, -1, rows.shape[1])  # (G, O / G, I / G)
    return np.asarray(groups.max(axis=1).reshape(-1))


def _rescale(graph: ir.Graph, chain: Chain, s: NDArray[np.float32]) -> None:
    first, second = chain.first, chain.second
    # Read from the graph: an earlier chain may have rescaled what Layer remembers.
    weight = _array(first.node.inputs[1])
    _put(graph, first.node, 1, weight / s.reshape(-1, *(1,) * (weight.ndim - 1)))
    if first.bias is not None:
        _put(graph, first.node, 2, _array(first.node.inputs[2]) / s)
    weight = _array(second.node.inputs[1])
    grouped = weight.reshape(second.groups, -1, *weight.shape[1:])  # (G, O / G, I / G, ...)
    factors = s.reshape(second.groups, 1, -1, *(1,) * (weight.ndim - 2))
    _put(graph, second.node, 1, (grouped * factors).reshape(weight.shape))


def _array(value: ir.Value | None) -> Array:
    assert value is not None, "a layer that is rescaled has constants of its own"
    return array_of(value)


def _put(graph: ir.Graph, node: ir.Node, index: int, array: Array) -> None:
    old = node.inputs[index]
    assert old is not None and old.name is not None
    # A clone shares its initializers with the original: replace, never mutate.
    new = ir.tape.Tape().initializer(ir.tensor(array.astype(np.float32), name=old.name))
    node.replace_input_with(index, new)
    del graph.initializers[old.name]
    graph.register_initializer(new)


def _rescaled(tensor: TensorRange, s: NDArray[np.float32]) -> TensorRange:
    """The range of a tensor whose channels were divided.

    The largest magnitude is exact; what the other choosers would pick keeps its share of it.
    """
    channels = np.asarray(tensor.channel_amax) / s
    ratio = float(channels.max() / max(tensor.channel_amax))
    picked = {name: value * ratio for name, value in tensor.candidates.model_dump().items()}
    return tensor.model_copy(
        update={
            "amax": tensor.amax * ratio,
            "minimum": 0.0,
            "maximum": float(channels.max()),
            "candidates": tensor.candidates.model_copy(update=picked),
            "histogram": tensor.histogram.model_copy(
                update={"quantiles": tuple(q * ratio for q in tensor.histogram.quantiles)}
            ),
            "channel_amax": tuple(float(a) for a in channels),
        }
    )
