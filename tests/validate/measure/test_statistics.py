"""The interval and the tests must be those of the textbook, and cover as they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from radixrt.errors import InputError
from radixrt.validate.measure.statistics import (
    PairedTable,
    difference_interval,
    images_needed,
    mcnemar_exact,
    settled,
)


def test_interval_and_test_equal_published_values() -> None:
    # Complete response before and after consolidation therapy (Cavo et al. 2012): n11 59, n12 6, n21 16, n22 80. The
    # figures are those that the R package contingencytables, by the authors of Fagerland, Lydersen and Laake,
    # "Statistical Analysis of Contingency Tables", expects of its own functions in tests/testthat/test-ch8.R.
    table = PairedTable(both=59, lost=16, gained=6, neither=80)
    assert table.difference == pytest.approx(-0.0621, abs=5e-5)
    assert difference_interval(table) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    assert mcnemar_exact(table) == pytest.approx(0.052479, abs=5e-7)


@pytest.mark.parametrize(
    "counts", [(1, 7, 1, 12), (59, 16, 6, 80), (60, 20, 40, 40), (990, 3, 1, 6), (5, 4, 0, 1), (0, 1, 2, 0)]
)
def test_the_bounds_are_where_the_score_statistic_is_1_96(counts: tuple[int, int, int, int]) -> None:
    # The statistic by its definition, with the constrained likelihood maximised numerically and not by Tango's formula.
    table = PairedTable(*counts)
    for delta, z in zip(difference_interval(table), (1.959964, -1.959964), strict=True):

        def unlikelihood(gained: float, delta: float = delta) -> float:
            shares = (gained, gained - delta, 1 - 2 * gained + delta)
            terms = zip((table.gained, table.lost, table.both + table.neither), shares, strict=True)
            return -sum(n * math.log(share) for n, share in terms if n)

        low, high = max(0.0, delta), (1 + delta) / 2
        gained = minimize_scalar(unlikelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
        spread = math.sqrt((2 * gained - delta - delta**2) / table.images)
        assert (table.difference - delta) / spread == pytest.approx(z, abs=2e-4)


def test_interval_without_discordant_images_has_its_closed_form() -> None:
    # With no flip at all Tango's statistic is delta * sqrt(n / (delta (1 - delta))): its roots are z^2 / (n + z^2).
    z2 = norm.ppf(0.975) ** 2
    low, high = difference_interval(PairedTable(both=400, lost=0, gained=0, neither=600))
    assert high == pytest.approx(z2 / (1000 + z2))
    assert low == pytest.approx(-z2 / (1000 + z2))


@pytest.mark.parametrize(
    ("images", "lost", "gained"),
    [(1000, 0.008, 0.004), (1000, 0.003, 0.002), (300, 0.01, 0.01), (200, 0.05, 0.03), (60, 0.10, 0.15)],
)
def test_interval_covers_95_percent_of_simulated_trials(images: int, lost: float, gained: float) -> None:
    random = np.random.default_rng(20)
    trials, hits = 2000, 0
    drawn = random.multinomial(images, [lost, gained, 1 - lost - gained], size=trials)
    for (a, b, c), times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        low, high = difference_interval(PairedTable(both=int(c), lost=int(a), gained=int(b), neither=0))
        hits += int(times) * (low <= gained - lost <= high)
    assert hits / trials == pytest.approx(0.95, abs=0.015)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(0, 40)] * 4).filter(lambda t: sum(t) > 0))
def test_interval_holds_its_estimate_stays_in_range_and_mirrors(counts: tuple[int, int, int, int]) -> None:
    both, lost, gained, neither = counts
    table = PairedTable(both, lost, gained, neither)
    low, high = difference_interval(table)
    assert -1 <= low <= table.difference <= high <= 1
    assert low < high
    mirrored = difference_interval(PairedTable(both, gained, lost, neither))
    assert mirrored == pytest.approx((-high, -low), abs=1e-6)


def test_counting_sorts_images_by_who_was_right() -> None:
    reference = np.array([True, True, False, False, True])
    engine = np.array([True, False, True, False, True])
    assert PairedTable.count(reference, engine) == PairedTable(both=2, lost=1, gained=1, neither=1)
    with pytest.raises(InputError, match="one entry per image"):
        PairedTable.count(reference, engine[:3])


def test_no_images_is_refused() -> None:
    with pytest.raises(InputError, match="labelled test images"):
        difference_interval(PairedTable(0, 0, 0, 0))


def test_images_needed_is_enough_and_hardly_more() -> None:
    table = PairedTable(both=860, lost=8, gained=4, neither=128)  # a drop of 0.4 points, the bound beyond 1
    assert not settled(difference_interval(table), 0.01)
    needed = images_needed(table, 0.01)
    assert needed is not None and needed > 1000

    def bound(images: float) -> float:
        scale = images / 1000
        counts = PairedTable(0, round(8 * scale), round(4 * scale), 0)
        rest = images - counts.lost - counts.gained
        return difference_interval(PairedTable(round(rest), counts.lost, counts.gained, 0))[0]

    assert bound(needed * 1.05) >= -0.01
    assert bound(needed * 0.90) < -0.01


def test_images_needed_where_these_are_enough_or_none_would_be() -> None:
    assert images_needed(PairedTable(both=990, lost=0, gained=0, neither=10), 0.01) == 1000
    # The observed drop is the limit itself: no number of images will ever separate the two.
    assert images_needed(PairedTable(both=980, lost=10, gained=0, neither=10), 0.01) is None
    assert math.isclose(PairedTable(980, 10, 0, 10).difference, -0.01)
