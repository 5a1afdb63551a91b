"""How a tensor's range is chosen from what was observed: four choosers with one signature.

Each takes an observer and returns the amax that maps to 127, never above the largest magnitude seen, and zero only
for a tensor that was zero throughout.

- ``minmax``: the largest magnitude; nothing saturates.
- ``percentile``: the magnitude below which the given share of the values lies.
- ``entropy``: the threshold whose 128-level approximation of the distribution has the least Kullback-Leibler divergence
  from the clipped one (Migacz, "8-bit inference with TensorRT", 2017), on 2048 bins as TensorRT's calibrator uses.
- ``mse``: the threshold with the least expected squared error, rounding and clipping together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from radixrt.calibration.int8 import QMAX
from radixrt.calibration.ranges.observers import BINS, Histogram, TensorObserver
from radixrt.calibration.spec import CalibrationOptions, Method

_ENTROPY_BINS = 2048
_ENTROPY_LEVELS = 128
_ENTROPY_STEP = 16  # thresholds tried: every 16th bin of 2048, under 1 % of the range apart
_CANDIDATES = 160
_LOWEST_SHARE = 1 / 32  # below this share of the largest magnitude a step is no wider than two bins


def choose(observer: TensorObserver, options: CalibrationOptions) -> float:
    """The amax of a tensor by the method that ``options`` names."""
    match options.method:
        case Method.MINMAX:
            return observer.amax
        case Method.PERCENTILE:
            amax = percentile(observer.histogram, options.percentile)
        case Method.ENTROPY:
            amax = entropy(observer.histogram)
        case Method.MSE:
            amax = mse(observer.histogram)
        case _:
            assert_never(options.method)
    if amax <= 0:
        return observer.amax
    return min(amax, observer.amax)


def percentile(histogram: Histogram, share: float) -> float:
    """The magnitude that ``share`` percent of all values (zeros included) do not exceed.

    Linear inside a bin, so at most one bin, 1/4096 of the largest magnitude, from the exact percentile.
    """
    wanted = histogram.total * share / 100 - histogram.zeros
    if wanted <= 0:
        return 0.0
    cumulative = np.cumsum(histogram.counts)
    index = int(np.searchsorted(cumulative, min(wanted, float(cumulative[-1]))))
    before = float(cumulative[index - 1]) if index else 0.0
    inside = (min(wanted, float(cumulative[-1])) - before) / float(histogram.counts[index])
    return (index + inside) * histogram.width


def entropy(histogram: Histogram) -> float:
    """The threshold of least KL divergence; 0 for a histogram without values."""
    counts = histogram.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1).astype(np.float64)
    used = np.flatnonzero(counts)
    if used.size == 0:
        return 0.0
    top = int(used[-1]) + 1
    width = histogram.width * (BINS // _ENTROPY_BINS)
    if top <= _ENTROPY_LEVELS:
        return top * width
    best, best_divergence = top, np.inf
    for stop in sorted({*range(_ENTROPY_LEVELS, top, _ENTROPY_STEP), top}):
        divergence = _divergence(counts, stop)
        if divergence <= best_divergence:  # of equals the widest: it clips least
            best, best_divergence = stop, divergence
    return best * width


def _divergence(counts: NDArray[np.float64], stop: int) -> float:
    """KL divergence of the clipped distribution of ``counts[:stop]`` from its approximation in 128 levels."""
    inside = counts[:stop]
    reference = inside.copy()
    reference[-1] += counts[stop:].sum()
    # Level edges as even as integers allow; each level's count is spread over its non-empty bins.
    starts = (np.arange(_ENTROPY_LEVELS) * stop) // _ENTROPY_LEVELS
    occupied = (inside > 0).astype(np.float64)
    sums = np.add.reduceat(inside, starts)
    holders = np.add.reduceat(occupied, starts)
    level = np.divide(sums, holders, out=np.zeros_like(sums), where=holders > 0)
    approximation = np.repeat(level, np.diff(np.append(starts, stop))) * occupied
    total, approximated = reference.sum(), approximation.sum()
    if approximated == 0:
        return float(np.inf)
    p, q = reference / total, approximation / approximated
    # A clipped tail may land in an empty bin, whose approximation is zero: a tiny floor keeps that finite and costly.
    q = np.maximum(q, 1e-12)
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / q[positive])).sum())


def mse(histogram: Histogram) -> float:
    """The threshold of least expected squared error; 0 for a histogram without values."""
    used = np.flatnonzero(histogram.counts)
    if used.size == 0:
        return 0.0
    top = (int(used[-1]) + 1) * histogram.width
    thresholds = top * np.geomspace(_LOWEST_SHARE, 1.0, _CANDIDATES)
    errors = squared_errors(histogram, thresholds)
    # Of near equals take the widest: it clips least on images that calibration has not seen.
    good = np.flatnonzero(errors <= errors.min() * (1 + 1e-6))
    return float(thresholds[good[-1]])


def squared_errors(histogram: Histogram, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The summed squared error of quantising what the histogram holds, for each threshold.

    Values are taken as spread evenly inside their bins, a bin as rounded where its centre rounds.

    Args:
        histogram: magnitudes.
        thresholds: amax of each candidate, shape (T,).

    Returns:
        shape (T,).
    """
    index = np.flatnonzero(histogram.counts)
    counts = histogram.counts[index].astype(np.float64)
    centres = (index + 0.5) * histogram.width
    spread = histogram.width**2 / 12
    errors = np.empty(len(thresholds))
    for i, amax in enumerate(thresholds):
        step = amax / QMAX
        rounded = np.minimum(np.rint(centres / step), QMAX) * step
        errors[i] = float((counts * ((centres - rounded) ** 2 + spread)).sum())
    return errors
