"""What can be concluded from paired right and wrong answers on the same images.

Only the discordant images carry information about the difference: those that exactly one of the two got right. They
are few (quantising flips a handful of answers in a thousand), so the textbook Wald interval is far too short here.
:func:`difference_interval` is Tango's score interval, which keeps its coverage at such counts and never leaves
[-1, 1]; :func:`mcnemar_exact` is the exact binomial test.

Sources: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17 (1998); the recommendation of Fagerland, Lydersen and Laake, Statistics in Medicine
33 (2014); Q. McNemar, Psychometrika 12 (1947).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from radixrt.errors import InputError

MOST_IMAGES = 10_000_000
"""Above this many images a request for more is not advice."""


@dataclass(frozen=True)
class PairedTable:
    """Counts of images by who answered right: ``lost`` in the reference only, ``gained`` in the engine only."""

    both: int
    lost: int
    gained: int
    neither: int

    @classmethod
    def count(cls, reference: NDArray[np.bool_], engine: NDArray[np.bool_]) -> PairedTable:
        """Counts two arrays of shape (images,) that say where each answered right.

        Raises:
            InputError: the shapes differ.
        """
        if reference.shape != engine.shape or reference.ndim != 1:
            raise InputError(f"paired answers need one entry per image, not {reference.shape} and {engine.shape}")
        return cls(
            both=int(np.sum(reference & engine)),
            lost=int(np.sum(reference & ~engine)),
            gained=int(np.sum(~reference & engine)),
            neither=int(np.sum(~reference & ~engine)),
        )

    @property
    def images(self) -> int:
        return self.both + self.lost + self.gained + self.neither

    @property
    def difference(self) -> float:
        """Engine minus reference, as a share."""
        return (self.gained - self.lost) / self.images


def _score(images: float, gained: float, lost: float, delta: float) -> float:
    """Tango's score statistic of ``difference == delta``; it falls as ``delta`` rises."""
    b = -gained - lost + (2 * images - gained + lost) * delta
    c = -lost * delta * (1 - delta)
    root = math.sqrt(max(b * b - 8 * images * c, 0.0))
    # The constrained estimate of P(lost); written so that neither sign of b cancels.
    share = (root - b) / (4 * images) if b <= 0 else -2 * c / (root + b)
    variance = images * (2 * share + delta * (1 - delta))
    excess = gained - lost - images * delta
    if abs(excess) < 1e-9 * images:
        return 0.0
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)


def _interval(images: float, gained: float, lost: float, confidence: float) -> tuple[float, float]:
    z = float(norm.ppf(0.5 + confidence / 2))
    point = (gained - lost) / images
    edge = 1e-12

    def solve(target: float, low: float, high: float) -> float:
        def gap(delta: float) -> float:
            return max(min(_score(images, gained, lost, delta), 1e6), -1e6) - target

        return float(brentq(gap, low, high, xtol=1e-10)) if gap(low) * gap(high) < 0 else low if target > 0 else high

    return (
        solve(z, -1 + edge, point) if point > -1 + edge else -1.0,
        solve(-z, point, 1 - edge) if point < 1 - edge else 1.0,
    )


def difference_interval(table: PairedTable, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of engine minus reference, as shares.

    Args:
        table: paired counts of at least one image.
        confidence: coverage, between 0 and 1.

    Raises:
        InputError: the table has no image.
    """
    if table.images == 0:
        raise InputError("no images to compare: give labelled test images")
    return _interval(table.images, table.gained, table.lost, confidence)


def mcnemar_exact(table: PairedTable) -> float:
    """The two-sided exact p-value of "neither is better": 1 where no image is discordant."""
    discordant = table.lost + table.gained
    return float(binomtest(table.lost, discordant, 0.5).pvalue) if discordant else 1.0


def settled(interval: tuple[float, float], max_drop: float) -> bool:
    """Whether an interval lies wholly on one side of a largest allowed drop (a share): then the images tell."""
    return interval[0] >= -max_drop or interval[1] < -max_drop


def images_needed(table: PairedTable, max_drop: float, confidence: float = 0.95) -> int | None:
    """How many images would settle whether the drop is within ``max_drop``, if flips stay as frequent as they are.

    Args:
        table: what was observed.
        max_drop: the largest allowed drop, as a share.
        confidence: coverage of the interval that must lie on one side of the limit.

    Returns:
        The number, at least ``table.images`` where these do not tell; ``None`` where ten million would not be enough
        (the observed drop is the limit itself).
    """

    def tells(images: int) -> bool:
        scale = images / table.images
        interval = _interval(images, table.gained * scale, table.lost * scale, confidence)
        return settled(interval, max_drop)

    low, high = 0, table.images
    while not tells(high):
        low, high = high, high * 2
        if high > MOST_IMAGES:
            return None
    if low == 0:
        return table.images
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high
