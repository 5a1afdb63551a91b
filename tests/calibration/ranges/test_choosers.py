"""Protects the choice of ranges: each chooser against a brute-force search or a closed form."""

from __future__ import annotations

import numpy as np
import pytest

from radixrt.calibration.int8 import fake_quantize
from radixrt.calibration.ranges.choosers import choose
from radixrt.calibration.ranges.observers import TensorObserver
from radixrt.calibration.spec import CalibrationOptions, Method


def observe(values: np.ndarray) -> TensorObserver:
    observer = TensorObserver("x")
    observer.observe(values.astype(np.float32)[None])
    return observer


def pick(values: np.ndarray, method: Method, **more: float) -> float:
    return choose(observe(values), CalibrationOptions(method, **more))


DISTRIBUTIONS = {
    "normal": lambda rng: rng.normal(size=200_000),
    "laplace": lambda rng: rng.laplace(size=200_000),
    "relu": lambda rng: np.maximum(rng.normal(size=200_000), 0),
    "outlier": lambda rng: np.append(rng.normal(size=200_000), 60.0),
}


def values_of(name: str) -> np.ndarray:
    return np.asarray(DISTRIBUTIONS[name](np.random.default_rng(0)), np.float32)


def test_minmax_is_exact() -> None:
    values = values_of("normal")
    assert pick(values, Method.MINMAX) == float(np.abs(values).max())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("share", [90.0, 99.0, 99.99])
def test_percentile_is_numpys_to_a_bin(name: str, share: float) -> None:
    values = values_of(name)
    exact = np.percentile(np.abs(values), share)
    assert pick(values, Method.PERCENTILE, percentile=share) == pytest.approx(
        exact, abs=float(np.abs(values).max()) / 2048
    )


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_as_good_as_a_search_over_the_values_themselves(name: str) -> None:
    values = values_of(name)

    def error(amax: float) -> float:
        return float(np.square(fake_quantize(values, amax / 127).astype(np.float64) - values).sum())

    best = min(error(a) for a in np.abs(values).max() * np.geomspace(1 / 32, 1, 200))
    assert error(pick(values, Method.MSE)) <= best * 1.01


@pytest.mark.parametrize("name", ["laplace", "outlier"])
def test_entropy_cuts_the_tail_and_keeps_the_bulk(name: str) -> None:
    values = values_of(name)
    amax = pick(values, Method.ENTROPY)
    assert amax < np.abs(values).max()
    assert (np.abs(values) <= amax).mean() > 0.99


def test_an_outlier_does_not_decide() -> None:
    # The squared error weighs the one value by its square, so it gives way less than the others.
    for method, most in ((Method.ENTROPY, 12), (Method.PERCENTILE, 12), (Method.MSE, 30)):
        assert pick(values_of("outlier"), method) < most, method


@pytest.mark.parametrize("method", list(Method))
def test_uniform_values_keep_their_whole_range(method: Method) -> None:
    # Nothing is gained by clipping a uniform distribution.
    values = np.random.default_rng(0).uniform(-1, 1, size=100_000)
    assert pick(values, method) == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("method", list(Method))
def test_zeros_do_not_weigh(method: Method) -> None:
    # Zeros are represented exactly: a tensor that is mostly zero keeps the range of the rest. Percentiles count them.
    values = values_of("normal")
    sparse = np.concatenate([values, np.zeros(len(values) * 9, np.float32)])
    if method is not Method.PERCENTILE:
        assert pick(sparse, method) == pick(values, method)


@pytest.mark.parametrize("method", list(Method))
@pytest.mark.parametrize("value", [0.0, 1e-42, 1e-20, 3e38])
def test_extreme_tensors_get_a_range(method: Method, value: float) -> None:
    amax = pick(np.full(100, value), method)
    assert amax == pytest.approx(float(np.float32(value)), rel=0.01)


@pytest.mark.parametrize("method", list(Method))
def test_scaling_the_values_scales_the_range(method: Method) -> None:
    values = values_of("laplace")
    assert pick(values * 4, method) == pytest.approx(4 * pick(values, method), rel=1e-6)
