"""Protects exactness on x86: products of u8 activations and neighbouring weights fit 16 bits, whatever the weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from radixrt.calibration.int8 import channel_amax, channel_scales, dequantize, quantize
from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.saturation import fits, quantize_in_pairs, shrunk
from radixrt.engines.registry import get
from tests.networks.residual import images, plain

SHAPES = [(4, 6, 3, 3), (5, 3, 1, 1), (3, 7, 5, 5), (8, 9)]


def overflow(integers: np.ndarray) -> int:
    """The worst 16-bit sum of two neighbours beside activations of 0 or 255, by brute force, in each order."""
    worst = 0
    last = np.moveaxis(integers, 1, -1)
    positions = last.reshape(-1, last.shape[-1])
    for order in (integers.reshape(len(integers), -1), last.reshape(len(integers), -1), positions):
        for row in order.astype(int):
            for k in range(0, len(row) - 1, 2):
                for a in (0, 255):
                    for b in (0, 255):
                        worst = max(worst, abs(a * row[k] + b * row[k + 1]))
    return worst


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_no_pair_overflows_and_the_weights_stay_close(shape: tuple[int, ...], scale: float) -> None:
    weight = (np.random.default_rng(0).laplace(size=shape) * scale).astype(np.float32)
    integers, scales = quantize_in_pairs(weight)
    assert overflow(integers) < 2**15
    plain_scales = channel_scales(channel_amax(weight))
    own = np.abs(dequantize(quantize(weight, plain_scales, 0), plain_scales, 0) - weight).mean()
    assert np.abs(dequantize(integers, scales, 0) - weight).mean() < 2.5 * own


@settings(max_examples=60, deadline=None)
@given(arrays(np.int8, (2, 3, 2, 2), elements=st.integers(-127, 127)))
def test_shrinking_fits_keeps_signs_and_leaves_what_fits(integers: np.ndarray) -> None:
    small = shrunk(integers)
    assert fits(small) and overflow(small) < 2**15
    assert (np.sign(small) * np.sign(integers) >= 0).all()
    assert (np.abs(small.astype(int)) <= np.abs(integers.astype(int))).all()
    if fits(integers):
        np.testing.assert_array_equal(small, integers)


def test_the_axis_is_the_channels() -> None:
    weight = np.random.default_rng(1).normal(size=(6, 10)).astype(np.float32)
    integers, scales = quantize_in_pairs(weight, 1)
    turned, turned_scales = quantize_in_pairs(np.ascontiguousarray(weight.T), 0)
    np.testing.assert_array_equal(integers, turned.T)
    np.testing.assert_array_equal(scales, turned_scales)


# Signed activations become u8 around 128 or a zero point of their own: beside both, s8 weights overflow just the same.
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_cpu_graph_holds_only_weights_that_fit_whatever_the_activations(target: str) -> None:
    model, x = plain(), images(8)
    options = PlacementOptions(get(target).traits, first=Ends.INT8, last=Ends.INT8)
    placed, _ = place(model, calibrate(model, [{"input": x}]), options)
    seen = set()
    for node in placed.graph:
        if node.op_type != "Conv":
            continue
        quantizer = node.inputs[0].producer()  # type: ignore[union-attr]
        weights = node.inputs[1].producer()  # type: ignore[union-attr]
        if quantizer is None or weights is None or quantizer.inputs[2] is None:
            continue
        seen.add(quantizer.inputs[2].dtype)
        assert overflow(weights.inputs[0].const_value.numpy()) < 2**15  # type: ignore[union-attr]
    signed = set() if options.traits.zero_points else {ir.DataType.INT8}
    assert seen == {ir.DataType.UINT8} | signed
