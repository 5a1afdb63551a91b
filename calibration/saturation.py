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

from radixrt.calibration.int8 import QMAX, channel_amax, channel_scales, dequantize, quantize

Array = NDArray[Any]

MOST = 128
"""What two neighbours of one sign may make up: 255 * 128 < 2**15."""

_STEPS = 5
"""Scales tried between the channel's own and the coarsest that could be needed."""

_BLOCK = 1 << 16
"""Weights looked at together, so that what is computed of them stays in the processor's cache."""


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
    # No pair is larger than twice the largest weight, which at the coarsest scale is 64, exactly: so a channel of equal
    # weights, such as the average of a window, is what it was.
    widenings = [*np.linspace(1.0, 2.0, 2 * _STEPS, endpoint=False), 2 * QMAX / MOST]
    scales = np.stack([scales_at(float(widening)) for widening in widenings])
    rows = np.moveaxis(weight, axis, 0)
    integers, chosen = np.empty(rows.shape, np.int8), np.empty(len(rows), np.float32)
    block = max(_BLOCK * len(rows) // max(rows.size, 1), 1)
    for start in range(0, len(rows), block):
        part = slice(start, start + block)
        integers[part], chosen[part] = _closest_rows(np.ascontiguousarray(rows[part]), scales[:, part])
    return np.moveaxis(integers, 0, axis), chosen


def _closest_rows(weight: Array, candidates: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """As :func:`_closest`, for channels along axis 0 and scales that are given, shape (candidates, O)."""
    shape = (-1, *[1] * (weight.ndim - 1))
    best, chosen, least = np.zeros(weight.shape, np.int8), candidates[0], np.full(len(weight), np.inf)
    for scales in candidates:
        integers = shrunk(quantize(weight, scales, 0))
        # Counted in steps, as the square of a weight in float32 overflows from 1e19 on.
        steps = np.square(integers - weight / scales.reshape(shape)).reshape(len(weight), -1)
        error = steps.sum(axis=1, dtype=np.float64) * scales.astype(np.float64) ** 2
        better = error < least
        best[better] = integers[better]
        chosen, least = np.where(better, scales, chosen), np.minimum(error, least)
    return best, chosen


def shrunk(integers: NDArray[np.int8], axis: int = 0) -> NDArray[np.int8]:
    """Makes the pairs that are too large smaller, both by as much."""
    rows = _rows(integers, axis)
    for first, second in _pairs(rows):
        # Two of different signs never make up so much.
        over = np.abs(first + second) - MOST
        where = np.unravel_index(np.flatnonzero(over > 0), over.shape)
        half = (over[where] + 1) // 2
        first[where] -= np.sign(first[where]) * half
        second[where] -= np.sign(second[where]) * (over[where] - half)
    return np.asarray(np.moveaxis(rows, 0, axis), np.int8)


def fits(integers: Array, axis: int = 0) -> bool:
    """Whether no pair of neighbours overflows."""
    return all(bool((np.abs(a + b) <= MOST).all()) for a, b in _pairs(_rows(integers, axis)))


def _rows(integers: Array, axis: int) -> NDArray[np.int16]:
    """A copy with the output channels first, wide enough to add two of them."""
    return np.array(np.moveaxis(integers, axis, 0), np.int16, order="C")


def _pairs(rows: NDArray[np.int16]) -> Iterator[tuple[Array, Array]]:
    """First and second of all neighbours, in each order: changes to what is yielded are changes of ``rows``."""
    yield _neighbours(rows.reshape(len(rows), -1))
    if rows.ndim == 2:
        return
    # With an even number of channels a position's pairs are those of channels-last order.
    if rows.shape[1] % 2:
        last = np.ascontiguousarray(np.moveaxis(rows, 1, -1))
        yield _neighbours(last.reshape(len(rows), -1))
        rows[...] = np.moveaxis(last, -1, 1)
    yield _neighbours(rows)


def _neighbours(array: Array) -> tuple[Array, Array]:
    """The even and the odd places along the second axis; the last one of an odd number has no neighbour."""
    paired = array.shape[1] // 2 * 2
    return array[:, 0:paired:2], array[:, 1:paired:2]
