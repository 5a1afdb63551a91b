"""What is remembered of a tensor while images stream by: extremes, and a histogram of magnitudes.

The memory of an observer does not depend on how much it has seen. Its state is a pure function of the multiset of
values seen, so neither the order of images nor the way they are batched can change it:

- extremes are exact, and max is associative;
- the histogram's bins are ``2**exponent`` wide, and counts are integers. When a value falls outside, the exponent grows
  and neighbouring bins are added together. ``floor(x / 2**e)`` is exact in floating point and the bins of exponent
  ``e + 1`` are unions of those of ``e``, so growing early or late gives the same counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.errors import InputError

Float = NDArray[np.floating[Any]]

BINS = 8192
"""Bins of a histogram; between half and all of them are used, so a bin is at most 1/4096 of the largest value."""

SMALLEST_EXPONENT = -126
"""Magnitudes below 8192 * 2**-126 share the finest histogram, whose bins are the smallest normal float32 wide."""


def exponent_for(amax: float) -> int:
    """The exponent of the finest bins that reach ``amax``: the smallest e with ``floor(amax / 2**e) < BINS``."""
    if amax <= 0:
        return SMALLEST_EXPONENT
    _, power = math.frexp(amax)  # 2**(power-1) <= amax < 2**power
    return max(power - int(math.log2(BINS)), SMALLEST_EXPONENT)


@dataclass
class Histogram:
    """Counts of magnitudes, exact zeros apart: a zero is always represented exactly, so it must not weigh on a choice.

    Attributes:
        exponent: a bin is ``2**exponent`` wide; bin i holds ``i * 2**exponent <= |x| < (i + 1) * 2**exponent``.
        counts: how many non-zero values fell into each bin.
        zeros: how many values were exactly zero.
    """

    exponent: int = SMALLEST_EXPONENT
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    zeros: int = 0

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """How many values were seen, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def grow(self, exponent: int) -> None:
        """Widens the bins to ``2**exponent`` by adding neighbours together; never narrows them."""
        shift = exponent - self.exponent
        if shift <= 0:
            return
        self.exponent = exponent
        if not self.counts.any():
            return
        grown = np.zeros(BINS, np.int64)
        factor = 2**shift
        if factor >= BINS:
            grown[0] = self.counts.sum()
        else:
            grown[: BINS // factor] = self.counts.reshape(-1, factor).sum(axis=1)
        self.counts = grown

    def add(self, values: Float, amax: float | None = None) -> None:
        """Counts values.

        Args:
            values: any shape; finite.
            amax: their largest magnitude, where the caller knows it or a bound of it.
        """
        flat = values.reshape(-1)
        if flat.size == 0:
            return
        if amax is None:
            amax = float(np.abs(flat).max())
        self.grow(exponent_for(amax))
        # Multiplying by a power of two is exact (magnitudes that underflow belong to bin 0 anyway).
        index = np.abs(flat)
        index *= np.float32(math.ldexp(1.0, -self.exponent))
        counts = np.bincount(index.astype(np.int32), minlength=BINS)
        zeros = flat.size - int(np.count_nonzero(flat))
        counts[0] -= zeros
        self.counts += counts
        self.zeros += zeros

    def merge(self, other: Histogram) -> None:
        """Adds what another observer saw: the same as if this one had seen it."""
        grown = Histogram(exponent=other.exponent, counts=other.counts.copy(), zeros=other.zeros)
        exponent = max(self.exponent, other.exponent)
        grown.grow(exponent)
        self.grow(exponent)
        self.counts += grown.counts
        self.zeros += grown.zeros

    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, shape (BINS,)."""
        return np.asarray((np.arange(BINS) + 0.5) * self.width, np.float64)


@dataclass
class TensorObserver:
    """Everything calibration keeps of one tensor.

    Attributes:
        name: the tensor's name in the graph.
        maximum: per channel, or shape (1,) for tensors without channels, or with another number in each image.
        minimum: likewise.
        histogram: magnitudes of the sampled values.
    """

    name: str
    maximum: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    minimum: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    histogram: Histogram = field(default_factory=Histogram)

    @property
    def amax(self) -> float:
        """The largest magnitude seen."""
        if self.maximum.size == 0:
            return 0.0
        return max(float(self.maximum.max()), -float(self.minimum.min()))

    @property
    def dead_channels(self) -> tuple[int, ...]:
        """Channels that were zero in every image."""
        if self.maximum.size < 2:
            return ()
        return tuple(int(i) for i in np.flatnonzero((self.maximum == 0) & (self.minimum == 0)))

    def observe(self, value: Float) -> None:
        """Takes in one image's tensor, every value of it.

        Args:
            value: shape (1, C, ...) or (1, C); rank 2 has no channels.

        Raises:
            InputError: the tensor holds NaN or infinite values.
        """
        rows = value.reshape(value.shape[1] if value.ndim >= 3 else 1, -1)
        self.observe_reduced(rows.max(axis=1), rows.min(axis=1), rows.reshape(-1))

    def observe_reduced(self, maximum: Float, minimum: Float, sample: Float) -> None:
        """Takes in what was made of one image's tensor.

        Args:
            maximum: the largest value of each channel, shape (C,) or (1,).
            minimum: the smallest, or zeros where the tensor is known never to be negative.
            sample: the values that the histogram counts, any shape.

        Raises:
            InputError: there are NaN or infinite values among them.
        """
        finite = np.isfinite(maximum).all() and np.isfinite(minimum).all() and np.isfinite(sample).all()
        if not finite:
            raise InputError(
                f"the activation {self.name!r} holds NaN or infinite values: "
                "look at the image just read and at the layer's weights"
            )
        if self.maximum.size == 0:
            self.maximum, self.minimum = maximum.astype(np.float32), minimum.astype(np.float32)
        else:
            # What follows the image's size is no channel: the places of a text, say, one for every so many columns.
            alike = self.maximum.shape == maximum.shape
            highest, lowest = (maximum, minimum) if alike else (maximum.max(keepdims=True), minimum.min(keepdims=True))
            if not alike:
                self.maximum, self.minimum = self.maximum.max(keepdims=True), self.minimum.min(keepdims=True)
            self.maximum = np.maximum(self.maximum, highest)
            self.minimum = np.minimum(self.minimum, lowest)
        self.histogram.add(sample, max(float(maximum.max()), -float(minimum.min()), 0.0))
