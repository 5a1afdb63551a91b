"""Cross-layer equalisation: channels that a per-tensor scale serves badly are rescaled, and the network stays the same.

Before::

    x ──► Conv(W1, b1) ──► Relu ──► h ──► Conv(W2, b2) ──► y

After, with a positive ``s`` for each channel c of h::

    x ──► Conv(W1[c] / s, b1[c] / s) ──► Relu ──► h / s ──► Conv(W2[:, c] * s, b2) ──► y

``relu(h / s) = relu(h) / s``, so y is the same (Nagel et al., "Data-free quantization through weight equalization and
bias correction", 2019, section 4.1). So it is wherever layers alone make and read a channel, through sums, pooling and
gates (``channels.py``): the residual stream of a whole stage is rescaled at once. ``s`` is a power of two: dividing by
it changes no digit of a float.

All channels of a tensor share one scale, and each row of a weight that reads them has one; rows of the weights that
make them have one each, so these lose nothing. With ``r`` the largest share that a channel has of the range of any
tensor it runs through, and ``w`` the largest share of a row that any reader gives to it, ``s`` is ``sqrt(r / w)``: both
spreads become the same, and no range grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.placement.meeting import with_one_scale
from radixrt.calibration.ranges.table import CalibrationTable, TensorRange
from radixrt.calibration.recovery.channels import FIXED, ChannelGroups, channel_groups, rescalable
from radixrt.export.graph.constants import array_of
from radixrt.export.graph.facts import infer
from radixrt.export.graph.hash import model_sha256
from radixrt.export.graph.layers import Layer, layers_of

Array = NDArray[Any]

_LARGEST_POWER = 8
"""Channels are divided or multiplied by at most 2**8: beyond that, one rare activation would decide."""


@dataclass(frozen=True)
class Equalised:
    """A graph that computes what the original does, and the ranges of its tensors.

    Attributes:
        model: the graph.
        table: the ranges; those of rescaled tensors follow from the extremes of each channel.
        divisors: what each output channel of a layer was divided by, shape (C,), by layer name.
    """

    model: ir.Model
    table: CalibrationTable
    divisors: dict[str, NDArray[np.float32]]


def equalised(model: ir.Model, table: CalibrationTable, layers: frozenset[str]) -> Equalised | None:
    """Rescales every group of channels that layers in INT8 read.

    Args:
        model: a float32 graph; not changed.
        table: its calibration.
        layers: the names of the layers that are quantised.

    Returns:
        the graph and its ranges, or None where nothing can be gained.
    """
    copy = infer(model.clone())
    groups = channel_groups(copy.graph)
    able = [layer for layer in layers_of(copy.graph) if rescalable(layer)]
    reach = _reach(groups, table)
    share = _shares(groups, [layer for layer in able if layer.name in layers])
    s = np.ones(groups.count + 1, np.float32)  # the last is that of FIXED
    alive = np.flatnonzero((reach > 0) & (share > 0))
    wanted = np.log2(reach[alive] / share[alive]) / 2
    s[alive] = np.exp2(np.clip(np.rint(wanted), -_LARGEST_POWER, _LARGEST_POWER))
    divisors = {}
    for layer in able:
        read, written = (s[groups.of[value.name or ""]] for value in (layer.data, layer.output))
        if (written != 1).any():
            divisors[layer.name] = written
        if (read != 1).any() or (written != 1).any():
            _rescale(copy.graph, layer, read, written)
    if not divisors:
        return None
    tensors = tuple(_rescaled(t, s[groups.of[t.name]]) if _by_channel(t, groups) else t for t in table.tensors)
    changed = table.model_copy(update={"tensors": tensors, "model_sha256": model_sha256(copy)})
    return Equalised(copy, with_one_scale(copy.graph, changed), divisors)


def _by_channel(tensor: TensorRange, groups: ChannelGroups) -> bool:
    """Whether the table holds the range of each of a tensor's channels."""
    of = groups.of.get(tensor.name)
    return of is not None and len(tensor.channel_maximum) == len(of)


def _reach(groups: ChannelGroups, table: CalibrationTable) -> Array:
    """For each group the largest share of a tensor's range that any of its channels has; 0 where one is not known."""
    reach, unknown = np.zeros(groups.count), np.zeros(groups.count, bool)
    for tensor in table.tensors:
        of = groups.of.get(tensor.name)
        if of is None:
            continue
        free = of != FIXED
        if not _by_channel(tensor, groups):
            unknown[of[free]] = True
            continue
        channels = _magnitudes(tensor)
        np.maximum.at(reach, of[free], channels[free] / max(channels.max(), np.finfo(np.float64).tiny))
    reach[unknown] = 0
    return reach


def _magnitudes(tensor: TensorRange) -> Array:
    return np.maximum(tensor.channel_maximum, np.negative(tensor.channel_minimum))


def _shares(groups: ChannelGroups, readers: list[Layer]) -> Array:
    """For each group the largest share of a row's largest weight that any row gives to one of its channels."""
    share = np.zeros(groups.count)
    for layer in readers:
        of = groups.of[layer.data.name or ""]
        # Rows are quantised one by one, so only their shape counts.
        taps = _by_rows(layer, np.abs(layer.weight.astype(np.float64)))  # (G, O / G, I / G, taps)
        rows = taps.max(axis=3)
        rows /= np.maximum(rows.max(axis=2, keepdims=True), np.finfo(np.float64).tiny)
        free = of != FIXED
        np.maximum.at(share, of[free], rows.max(axis=1).reshape(-1)[free])
    return share


def _by_rows(layer: Layer, weight: Array) -> Array:
    """A view of a weight as (groups, outputs of one, inputs of one, taps)."""
    if layer.node.op_type == "Gemm":
        return (weight if layer.axis == 0 else weight.T)[None, :, :, None]
    taps = weight.reshape(layer.groups, -1, weight.shape[1], int(np.prod(weight.shape[2:])))
    return taps if layer.axis == 0 else taps.swapaxes(1, 2)


def _rescale(graph: ir.Graph, layer: Layer, read: NDArray[np.float32], written: NDArray[np.float32]) -> None:
    weight = np.array(layer.weight, np.float32)
    rows = _by_rows(layer, weight)
    rows *= read.reshape(layer.groups, 1, -1, 1)
    rows /= written.reshape(layer.groups, -1, 1, 1)
    _put(graph, layer.node, 1, weight)
    if layer.bias is not None:
        _put(graph, layer.node, 2, layer.bias / written)


def _put(graph: ir.Graph, node: ir.Node, index: int, array: Array) -> None:
    old = node.inputs[index]
    assert old is not None and old.name is not None
    # A clone shares its initializers with the original: replace, never mutate.
    shaped = array.astype(np.float32).reshape(-1 if index == 2 else array_of(old).shape)
    new = ir.tape.Tape().initializer(ir.tensor(shaped, name=old.name))
    node.replace_input_with(index, new)
    del graph.initializers[old.name]
    graph.register_initializer(new)


def _rescaled(tensor: TensorRange, s: NDArray[np.float32]) -> TensorRange:
    """The range of a tensor whose channels were divided.

    The extremes are exact; what the other choosers would pick keeps its share of them.
    """
    before = float(_magnitudes(tensor).max())
    low, high = (np.asarray(ends) / s for ends in (tensor.channel_minimum, tensor.channel_maximum))
    ratio = max(float(high.max()), -float(low.min())) / max(before, np.finfo(np.float64).tiny)

    def narrowed(amax: float) -> float:
        # What meets in a Concat was given a range that holds all of it.
        return float(min(amax, before) * ratio)

    picked = {name: narrowed(value) for name, value in tensor.candidates.model_dump().items()}
    return tensor.model_copy(
        update={
            "amax": narrowed(tensor.amax),
            "minimum": float(low.min()),
            "maximum": float(high.max()),
            "candidates": tensor.candidates.model_copy(update=picked),
            "histogram": tensor.histogram.model_copy(
                update={"quantiles": tuple(q * ratio for q in tensor.histogram.quantiles)}
            ),
            "channel_minimum": tuple(map(float, low)),
            "channel_maximum": tuple(map(float, high)),
        }
    )
