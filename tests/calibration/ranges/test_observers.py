"""Protects that what is remembered of a tensor depends on its values alone: not on batches, order, or interruptions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from radixrt.calibration.ranges.observers import BINS, Histogram, TensorObserver, exponent_for
from radixrt.errors import InputError

# Subnormals are left out: libraries in this process may have told the CPU to flush them.
floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
arrays = hnp.arrays(np.float32, st.integers(1, 200), elements=floats)


def brute_force(values: np.ndarray) -> Histogram:
    """All values at once, in exact arithmetic."""
    amax = float(np.abs(values).max())
    exponent = exponent_for(amax)
    index = np.floor(np.abs(values.astype(np.float64)) * 2.0**-exponent).astype(np.int64)
    nonzero = values != 0
    return Histogram(exponent, np.bincount(index[nonzero], minlength=BINS), int((~nonzero).sum()))


def same(a: Histogram, b: Histogram) -> bool:
    return a.exponent == b.exponent and a.zeros == b.zeros and np.array_equal(a.counts, b.counts)


@settings(max_examples=150, deadline=None)
@given(arrays, st.data())
def test_any_split_in_any_order_is_the_brute_force_histogram(values: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(values))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), max_size=5)))
    streamed = Histogram()
    for part in np.split(values[list(order)], cuts):
        streamed.add(part)
    assert same(streamed, brute_force(values))


@settings(max_examples=50, deadline=None)
@given(arrays, arrays)
def test_merging_two_observers_is_observing_both(first: np.ndarray, second: np.ndarray) -> None:
    a, b, both = Histogram(), Histogram(), Histogram()
    a.add(first)
    b.add(second)
    both.add(np.concatenate([first, second]))
    a.merge(b)
    assert same(a, both)


@pytest.mark.parametrize("amax", [1e-45, 1e-38, 0.1, 0.125, 1.0, 127.0, 8191.9, 8192.0, 3e38])
def test_the_largest_value_lies_in_the_upper_half_of_the_bins(amax: float) -> None:
    value = float(np.float32(amax))
    index = value / 2.0 ** exponent_for(value)
    assert index < BINS
    assert index >= BINS / 2 or value < 2**-113  # the finest histogram holds all that is smaller


def test_memory_does_not_grow() -> None:
    observer = TensorObserver("x")
    rng = np.random.default_rng(0)
    for scale in (1, 1000, 0.001, 50):
        observer.observe((rng.normal(size=(1, 8, 5, 5)) * scale).astype(np.float32))
    assert observer.histogram.counts.shape == (BINS,)
    assert observer.maximum.shape == (8,)
    assert observer.histogram.total == 4 * 200


def test_extremes_are_per_channel_and_dead_channels_are_named() -> None:
    observer = TensorObserver("x")
    value = np.zeros((1, 3, 2, 2), np.float32)
    value[0, 1, 0, 0] = -5
    observer.observe(value)
    value[0, 1, 0, 0] = 2
    observer.observe(value)
    assert observer.maximum.tolist() == [0, 2, 0]
    assert observer.minimum.tolist() == [0, -5, 0]
    assert observer.amax == 5
    assert observer.dead_channels == (0, 2)


def test_what_follows_the_images_size_is_no_channel() -> None:
    observer = TensorObserver("places of a text")
    for places in (8, 12, 8):
        observer.observe(np.linspace(-1, places, places * 4, dtype=np.float32).reshape(1, places, 4))
    assert (observer.maximum.tolist(), observer.minimum.tolist()) == ([12], [-1])
    assert (observer.amax, observer.dead_channels) == (12, ())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_named(bad: float) -> None:
    value = np.ones((1, 2, 2, 2), np.float32)
    value[0, 1, 1, 1] = bad
    with pytest.raises(InputError, match="'layer1_relu' holds NaN or infinite"):
        TensorObserver("layer1_relu").observe(value)
