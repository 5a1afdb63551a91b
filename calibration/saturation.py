"""Weights whose neighbours fit 16 bits beside u8 activations, so that x86 multiplies them fast and exactly.

Without VNNI, x86 adds the products of two neighbouring weights in 16 bits: ``255 * (w0 + w1)`` must stay below 2**15,
so two weights of one sign may make up at most 128. Few pairs do not fit. A channel either gets a coarser scale, or
these pairs are made smaller, or something between: whichever is closest to the original.

Neighbours are those in channels-last order, in which ONNX Runtime runs convolutions, those in the order of the graph,
and those of one position: oneDNN, which OpenVINO runs on, adds pairs of one position's channels, the last one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.int8 import channel_amax, channel_scales, dequantize, quantize

Array = NDArray[Any]

MOST = 128
"""What two neighbours of one sign may make up: 255 * 128 < 2**15."""

_STEPS = 5
"""Scales tried between the channel's own and the coarsest that could be needed."""


def quantize_in_pairs(
    weight: Array, axis: int = 0, *, bias: Array | None = None, input_scale: float = 1.0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantises a weight per output channel so that no pair overflows.

    Args:
        weight: (O, I, H, W), or a matrix.
        axis: counts the output channels.
        bias: the layer's bias, shape (C,), where it has one.
        input_scale: the scale of the layer's input.

    Returns:
        the integers, and a scale for each channel.

    Raises:
        InputError: a magnitude is NaN or infinite.
    """
    amax = channel_amax(weight, axis)
    return _closest(weight, axis, lambda widening: channel_scales(amax * widening, bias=bias, input_scale=input_scale))


def requantize_in_pairs(
    integers: NDArray[np.int8], scales: NDArray[np.float32], axis: int = 0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Changes weights that are integers already so that no pair overflows; no channel's scale becomes finer.

    Args:
        integers: (O, I, H, W), or a matrix.
        scales: one per channel, shape (C,).
        axis: counts the output channels.
    """
    return _closest(dequantize(integers, scales, axis), axis, lambda widening: np.float32(widening) * scales)


def _closest(
    weight: Array, axis: int, scales_at: Callable[[float], NDArray[np.float32]]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each channel at the widening of its scale that leaves it closest to the original."""
    other = tuple(i for i in range(weight.ndim) if i != axis)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    best, chosen, least = None, None, None
    # No pair is larger than twice the largest weight, which at twice the scale is 127.
    for widening in np.linspace(1.0, 2.0, 2 * _STEPS + 1):
        scales = scales_at(float(widening))
        integers = shrunk(quantize(weight, scales, axis), axis)
        # In double precision: the square of a float32 overflows from 1e19 on.
        error = ((integers * scales.reshape(shape).astype(np.float64) - weight) ** 2).sum(axis=other)
        if best is None or chosen is None or least is None:
            best, chosen, least = integers, scales, error
            continue
        better = error < least
        best = np.where(better.reshape(shape), integers, best)
        chosen, least = np.where(better, scales, chosen), np.minimum(error, least)
    assert best is not None and chosen is not None
    return best, chosen


def shrunk(integers: NDArray[np.int8], axis: int = 0) -> NDArray[np.int8]:
    """Makes the pairs that are too large smaller, both by as much."""
    rows = np.moveaxis(integers.astype(np.int16), axis, 0).copy()
    for pairs in _pairs(rows):
        first, second = pairs
        over = np.where(first * second > 0, np.maximum(np.abs(first + second) - MOST, 0), 0)
        half = (over + 1) // 2
        first -= np.sign(first) * half
        second -= np.sign(second) * (over - half)
    return np.asarray(np.moveaxis(rows, 0, axis), np.int8)


def fits(integers: Array, axis: int = 0) -> bool:
    """Whether no pair of neighbours overflows."""
    rows = np.moveaxis(integers.astype(np.int16), axis, 0).copy()
    return all(bool((np.abs(a + b)[a * b > 0] <= MOST).all()) for a, b in _pairs(rows))


def _pairs(rows: Array) -> Iterator[Array]:
    """Neighbours in each order, shape (2, O, pairs): changes to what is yielded are written back into ``rows``."""
    channels = rows.shape[1]
    # With an even number of channels a position's pairs are those of channels-last order.
    runs = (0, -1, channels) if channels % 2 and rows.ndim > 2 else (0, -1)
    for run in runs:
        order = np.moveaxis(rows, 1, -1) if run else rows
        length = run if run > 0 else order[0].size
        flat = order.reshape(len(rows), -1, length)
        padded = np.pad(flat, ((0, 0), (0, 0), (0, length % 2)))
        pairs = np.ascontiguousarray(np.moveaxis(padded.reshape(len(rows), -1, 2), -1, 0))
        yield pairs
        back = np.moveaxis(pairs, 0, -1).reshape(padded.shape)[..., :length].reshape(order.shape)
        rows[...] = np.moveaxis(back, -1, 1) if run else back
