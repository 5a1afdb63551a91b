"""What quantising takes from the mean of a layer's outputs by itself, whatever the layers before it did.

A layer that computes ``W x + b`` gives, quantised, ``Wq xq + b``: on the mean its outputs move by::

    (Wq - W) E[xq]  +  W E[xq - x]

with ``x`` as the quantised network itself makes it. What came from further up is not in there: the layers further up
make up for that. So all layers can be corrected from one pass. The mean of all that layers put out, held against the
float network's, is no such thing: in a chain of ten layers the tenth would be corrected ten times for the first.

A convolution pads with zeros: each tap of a kernel counts by the share of the positions where it lies inside the map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.export.graph.facts import static_dims
from radixrt.export.graph.layers import Layer

Array = NDArray[Any]


def local_error(layer: Layer, weight_error: Array, quantised: Array, rounding: Array) -> NDArray[np.float32]:
    """What a layer's own quantisers add to the mean of each of its output channels, shape (O,).

    Args:
        layer: any but a MatMul.
        weight_error: its quantised weights minus its own, of the weights' shape.
        quantised: the mean of each channel that it reads, shape (I,).
        rounding: what quantising that tensor added to each channel's mean, shape (I,).
    """
    added = _by_channel(layer, weight_error) @ _grouped(layer, quantised)
    added += _by_channel(layer, layer.weight) @ _grouped(layer, rounding)
    return np.asarray(added.reshape(-1), np.float32)


def _by_channel(layer: Layer, weight: Array) -> Array:
    """What each output channel takes of each channel that it reads, shape (G, O / G, I / G)."""
    kind = layer.node.op_type
    if kind == "Gemm":
        return (weight if layer.axis == 0 else weight.T)[None]
    taps = weight.astype(np.float64)
    if kind == "Conv":
        summed = (taps * _inside(layer)).sum(axis=tuple(range(2, weight.ndim)))
        return np.asarray(summed.reshape(layer.groups, -1, weight.shape[1]))
    # Each position that is read is spread over as many as the strides say, a kernel's taps over all of them.
    strides = layer.node.attributes.get_ints("strides", ()) or (1,)
    summed = taps.sum(axis=tuple(range(2, weight.ndim))) / np.prod(strides)
    return np.asarray(summed.reshape(layer.groups, -1, weight.shape[1]).swapaxes(1, 2))


def _grouped(layer: Layer, means: Array) -> Array:
    return means.astype(np.float64).reshape(layer.groups, -1, 1)


def _inside(layer: Layer) -> Array:
    """For each tap of a kernel the share of output positions where it lies inside the map, (kH, kW)."""
    node, taps = layer.node, layer.weight.shape[2:]
    read, written = static_dims(layer.data)[2:], static_dims(layer.output)[2:]
    count = len(taps)
    if len(read) != count or len(written) != count or None in (*read, *written):
        return np.ones(taps)
    pads = node.attributes.get_ints("pads", ()) or (0,) * (2 * count)
    strides = node.attributes.get_ints("strides", ()) or (1,) * count
    dilations = node.attributes.get_ints("dilations", ()) or (1,) * count
    shares = np.ones(())
    for axis in range(count):
        starts = np.arange(written[axis] or 1) * strides[axis] - pads[axis]
        places = starts[None, :] + np.arange(taps[axis])[:, None] * dilations[axis]
        inside = ((places >= 0) & (places < (read[axis] or 1))).mean(axis=1)
        shares = np.multiply.outer(shares, inside)
    return shares
