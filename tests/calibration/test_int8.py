"""Protects the arithmetic that every INT8 number goes through: scales, rounding, saturation, the unsigned form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixrt.calibration.int8 import (
    DEAD_SCALE,
    SCALE_FLOOR,
    channel_amax,
    channel_scales,
    dequantize,
    fake_quantize,
    outputs_sqnr_db,
    quantize,
    scale_from_amax,
    sqnr_db,
    to_unsigned,
)
from radixrt.errors import InputError


def test_scale_is_amax_over_127() -> None:
    assert scale_from_amax(127.0) == 1.0
    assert scale_from_amax(6.35) == float(np.float32(6.35 / 127))


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0])
def test_a_range_that_is_no_range_is_refused(amax: float) -> None:
    with pytest.raises(InputError, match="cannot be quantised"):
        scale_from_amax(amax)


@pytest.mark.parametrize("amax", [0.0, 1e-45, 1e-40, float(np.finfo(np.float32).tiny)])
def test_no_scale_is_zero_or_denormal(amax: float) -> None:
    scale = np.float32(scale_from_amax(amax))
    assert scale >= SCALE_FLOOR
    assert np.isfinite(np.float32(1) / scale)


def test_rounding_is_half_to_even() -> None:
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], np.float32)
    assert quantize(halves, 1.0).tolist() == [-2, -2, 0, 0, 2, 2, 4]


def test_saturation_is_symmetric() -> None:
    assert quantize(np.array([-1e9, -127.6, 126.4, 127.6, 1e9], np.float32), 1.0).tolist() == [
        -127,
        -127,
        126,
        127,
        127,
    ]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.floats(1e-3, 1e3))
def test_error_is_at_most_half_a_step_inside_the_range(values: list[float], scale: float) -> None:
    x = np.array(values, np.float32)
    inside = np.abs(x) <= 127 * np.float32(scale)
    error = np.abs(fake_quantize(x, scale) - x)[inside]
    assert (error <= scale * 0.5 * (1 + 1e-5) + np.abs(x[inside]) * 1e-6).all()


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=50), st.floats(1e-3, 1e3))
def test_quantising_again_changes_nothing(values: list[int], scale: float) -> None:
    # One scale for all splits of a tensor rests on this: a second pair with the same scale is free.
    q = np.array(values, np.int8)
    assert np.array_equal(quantize(dequantize(q, scale), scale), q)


def test_every_signed_value_has_its_unsigned_form() -> None:
    q = np.arange(-128, 128).astype(np.int8)
    assert to_unsigned(q).tolist() == list(range(256))
    assert np.array_equal(to_unsigned(q).astype(np.int16) - 128, q)


def test_per_channel_axis() -> None:
    weight = np.array([[[1.0, -2.0]], [[0.5, 0.25]]], np.float32)
    scales = channel_scales(channel_amax(weight, 0))
    assert scales.tolist() == pytest.approx([2 / 127, 0.5 / 127])
    assert quantize(weight, scales, 0).tolist() == [[[64, -127]], [[127, 64]]]
    assert channel_amax(weight, 2).tolist() == [1.0, 2.0]


def test_a_zero_channel_keeps_its_bias() -> None:
    # BatchNorm with gamma 0 leaves channels that are nothing but bias; engines hold it in steps of input_scale * scale.
    weight = np.zeros((3, 4), np.float32)
    weight[0] = 0.5
    weight[2] = 1e-30
    bias = np.array([0.1, 0.2, 3.0], np.float32)
    scales = channel_scales(channel_amax(weight), bias=bias, input_scale=0.01)
    in_steps = bias / (0.01 * scales.astype(np.float64))
    assert (np.abs(in_steps) < 2**31).all(), "the 32-bit bias overflows"
    assert (np.abs(np.rint(in_steps) * 0.01 * scales - bias) < 1e-4).all(), "the bias is too coarse"


def test_all_zero_weight_and_nan_weight() -> None:
    assert channel_scales(np.zeros(2)).tolist() == [DEAD_SCALE, DEAD_SCALE]
    with pytest.raises(InputError, match="NaN"):
        channel_scales(np.array([1.0, np.nan]))


def test_sqnr_closed_form() -> None:
    signal = np.full(100, 2.0, np.float32)
    assert sqnr_db(signal, signal + 0.02) == pytest.approx(40.0, abs=1e-3)
    assert sqnr_db(signal, signal) == float("inf")


def test_each_sample_is_held_against_its_own_signal() -> None:
    exact = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    noisy = exact * 1.01
    assert outputs_sqnr_db({"y": exact}, {"y": noisy}, 8) == pytest.approx(40, abs=0.2)
    loud = exact * np.array([3, 1, 1, 1, 1, 1, 1, 1])[:, None]
    tipped = loud * np.array([1.1, *[1.01] * 7])[:, None]
    found = outputs_sqnr_db({"y": loud}, {"y": tipped}, 8)
    assert found == pytest.approx(-10 * np.log10((7 * 1e-4 + 1e-2) / 8), abs=0.3)
    assert sqnr_db(loud, tipped) < found - 3
    assert outputs_sqnr_db({"y": exact}, {"y": exact}, 8) == float("inf")
    assert outputs_sqnr_db({"y": exact}, {"y": noisy}, 3) == pytest.approx(sqnr_db(exact, noisy)), "no rows for each"
    empty = exact * np.array([1, 1, 1, 1, 1, 1, 1, 0])[:, None]
    assert 25 < outputs_sqnr_db({"y": empty}, {"y": empty + 0.01}, 8) < 41, "one without a signal counts like others"
