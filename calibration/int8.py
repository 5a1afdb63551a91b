"""Symmetric INT8 arithmetic as pure functions over arrays.

The one convention of the whole compiler: 8 bits signed, zero point 0, the range is [-127, 127] (never -128, so that a
tensor and its negation quantise alike), rounding is half to even, values outside the range saturate::

    scale = amax / 127        q = clip(rint(x / scale), -127, 127)        x' = q * scale

QuantizeLinear itself saturates at -128; the two differ only for values below -127.5 scales, and only weights, which are
quantised here and stored as integers, could show it.

The unsigned form of a graph holds the same numbers as ``q + 128`` with zero point 128, or, where a tensor is never
negative, as ``q`` itself with zero point 0 (see ``engines/cpu/unsigned.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.errors import InputError

Float = NDArray[np.floating[Any]]

QMAX = 127
"""The largest magnitude of a symmetric 8-bit value."""

UNSIGNED_MAX = 255
"""The largest value of a tensor that is never negative where the target takes all 256 levels for it."""

UNSIGNED_ZERO_POINT = 128
"""Where 0 lies in the unsigned form of a signed tensor."""

SCALE_FLOOR = float(np.finfo(np.float32).tiny)
"""Below this a float32 scale is denormal, and engines flush it to zero."""

_FAINT = 0.01
"""The least signal of a sample that its noise is held against, as a share of all samples' mean."""

DEAD_SCALE = 1.0
"""The scale of a tensor that holds nothing but zeros: any positive number is exact, and 1 overflows nowhere."""


@dataclass(frozen=True)
class Grid:
    """The numbers that a quantised tensor can hold: ``(q - zero) * scale``.

    Attributes:
        scale: the distance of two neighbours.
        zero: the zero point.
        unsigned: q is u8, 0 to 255; otherwise s8, -127 to 127 around a zero point of 0.
    """

    scale: float
    zero: int = 0
    unsigned: bool = False

    @property
    def steps(self) -> tuple[int, int]:
        """The least and the largest number, in steps of the scale."""
        return (-self.zero, UNSIGNED_MAX - self.zero) if self.unsigned else (-QMAX, QMAX)


def grid_of_range(low: float, high: float) -> Grid:
    """The u8 grid that holds 0 exactly and reaches from ``low`` to ``high``, both widened to hold 0.

    Raises:
        InputError: an end is NaN or infinite.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = scale_from_amax(high - low, levels=UNSIGNED_MAX)
    return Grid(scale, min(int(np.rint(-low / scale)), UNSIGNED_MAX), unsigned=True)


def scale_from_amax(amax: float, *, levels: int = QMAX) -> float:
    """The scale of a tensor whose largest magnitude is ``amax``: ``amax / 127`` as a float32 (255 levels: unsigned).

    A scale of zero divides by zero at run time, so it never leaves here: an ``amax`` of 0 (a dead tensor) gets
    ``DEAD_SCALE``, and one so small that its scale would be denormal gets the smallest normal float32.

    Raises:
        InputError: ``amax`` is NaN, infinite or negative.
    """
    if math.isnan(amax) or math.isinf(amax) or amax < 0:
        raise InputError(f"a range of {amax} cannot be quantised: find the layer that made it and mend its weights")
    if amax == 0:
        return DEAD_SCALE
    return max(float(np.float32(amax / levels)), SCALE_FLOOR)


def channel_amax(weight: Float, axis: int = 0) -> NDArray[np.float64]:
    """The largest magnitude of each slice of ``weight`` along ``axis``; shape (weight.shape[axis],)."""
    other = tuple(i for i in range(weight.ndim) if i != axis)
    return np.asarray(np.abs(weight.astype(np.float64)).max(axis=other, initial=0.0))


def channel_scales(amax: Float, *, bias: Float | None = None, input_scale: float = 1.0) -> NDArray[np.float32]:
    """One scale per output channel of a weight.

    A channel that is zero, or nearly, gets a scale taken from its neighbours instead of its own: engines keep the bias
    as a 32-bit integer in steps of ``input_scale * scale``, which must neither overflow (scale too small) nor be coarse
    (scale too large).

    Args:
        amax: largest magnitude of each channel, shape (C,).
        bias: the layer's bias, shape (C,), where it has one.
        input_scale: the scale of the layer's input.

    Raises:
        InputError: a magnitude is NaN or infinite.
    """
    if not np.isfinite(amax).all():
        raise InputError("a weight holds NaN or infinite values: mend the checkpoint")
    largest = float(amax.max(initial=0.0))
    if largest == 0.0:
        return np.full(amax.shape, DEAD_SCALE, np.float32)
    scales = np.where(amax > 0, amax, largest) / QMAX
    scales = np.maximum(scales, SCALE_FLOOR)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (input_scale * 2.0**30))
    return scales.astype(np.float32)


def _along(scale: Float | float, ndim: int, axis: int | None) -> Float:
    array = np.asarray(scale, np.float32)
    if axis is None:
        return array
    return array.reshape([-1 if i == axis else 1 for i in range(ndim)])


def quantize(x: Float, scale: Float | float, axis: int | None = None) -> NDArray[np.int8]:
    """``x`` in steps of ``scale``, half to even, saturated to [-127, 127].

    Args:
        x: any shape.
        scale: one number, or with ``axis`` one per slice along that axis.
        axis: the channel axis, or None for one scale.
    """
    steps = np.rint(np.asarray(x, np.float32) / _along(scale, np.ndim(x), axis))
    return np.clip(steps, -QMAX, QMAX).astype(np.int8)


def dequantize(q: NDArray[np.int8], scale: Float | float, axis: int | None = None) -> NDArray[np.float32]:
    """The numbers that ``q`` stands for."""
    return np.asarray(q.astype(np.float32) * _along(scale, q.ndim, axis), np.float32)


def fake_quantize(x: Float, scale: Float | float, axis: int | None = None) -> NDArray[np.float32]:
    """``x`` after it was quantised and read back."""
    return dequantize(quantize(x, scale, axis), scale, axis)


def to_unsigned(q: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Signed values in unsigned integers: the same numbers around a zero point of 128."""
    return (q.astype(np.int16) + UNSIGNED_ZERO_POINT).astype(np.uint8)


def sqnr_db(reference: Float, quantized: Float) -> float:
    """Signal to quantisation noise in decibel: ``10 log10(sum(ref^2) / sum((ref - quantised)^2))``; inf when equal."""
    exact = reference.astype(np.float64)
    return power_ratio_db(float(np.square(exact).sum()), float(np.square(exact - quantized.astype(np.float64)).sum()))


def outputs_sqnr_db(reference: Mapping[str, Float], quantized: Mapping[str, Float], samples: int) -> float:
    """The SQNR by the mean of the samples' noise shares, in decibel; of several outputs, each counts alike.

    Each sample's noise is held against its own signal: where outputs are scores, those of a page full of text would
    drown all others'. A single image that rounding tips over weighs, and does not decide alone.

    Args:
        reference: the outputs by name, each with as many rows for one sample as for another.
        quantized: the same, quantised.
        samples: how many there are.
    """
    shares = [_noise_share(exact, quantized[name], samples) for name, exact in reference.items()]
    return power_ratio_db(1.0, sum(shares) / len(shares))


def _noise_share(reference: Float, quantized: Float, samples: int) -> float:
    rows = samples if samples and len(reference) % samples == 0 else 1  # or what was found in all images together
    signal, noise = np.zeros(rows), np.zeros(rows)
    # Row by row: a map of scores is large, and twice so in float64.
    for row, (one, other) in enumerate(zip(reference.reshape(rows, -1), quantized.reshape(rows, -1), strict=True)):
        exact = one.astype(np.float64)
        signal[row], noise[row] = np.square(exact).sum(), np.square(exact - other).sum()
    if not noise.any() or not signal.any():
        return math.inf if noise.any() else 0.0
    # A sample on which nothing is found has hardly a signal, and is not to be exact to the last bit for that.
    return float((noise / (signal + signal.mean() * (_FAINT if rows > 1 else 0.0))).mean())


def power_ratio_db(signal: float, noise: float) -> float:
    """Signal power over noise power in decibel; inf without noise, -inf without a signal."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
