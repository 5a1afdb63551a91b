from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.saturation import fits
from radixrt.engines.cpu.saturation import unsaturated
from tests.networks import gated


def weights_of(model: ir.Model, name: str = "w_int8") -> np.ndarray:
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


# 255 x 128 is the largest sum of two products that fits 16 bits: one step above it and results are silently wrong.
def test_no_pair_of_products_leaves_16_bits() -> None:
    before = ir.from_proto(gated.tiny("int8"))
    assert not fits(weights_of(before)), "the graph is none that saturates: this test would prove nothing"
    values = weights_of(unsaturated(before))
    assert fits(values)
    assert np.abs(values).max() > 64, "all weights lost a bit, not only the pairs that need it"


# Scales must widen as weights shrink; a miss would be off by up to a factor of two.
def test_results_stay_within_half_a_step_of_the_weights() -> None:
    before = gated.tiny("int8")
    after = ir.to_proto(unsaturated(ir.from_proto(before)))
    array = gated.images(1)
    np.testing.assert_allclose(gated.reference(after, array), gated.reference(before, array), rtol=0, atol=1e-2)


# What the deploy graph made to fit already keeps its bits: halving it cost 6 dB.
def test_weights_that_fit_stay_as_they_are() -> None:
    once = unsaturated(ir.from_proto(gated.tiny("int8")))
    twice = unsaturated(once)
    np.testing.assert_array_equal(weights_of(twice), weights_of(once))
    assert list(twice.graph.initializers) == list(once.graph.initializers)


# A bundle is carried to other processors: what this one can do must not show in it.
@pytest.mark.parametrize("flags", ["avx2", "avx2 avx512f avx512_vnni avx_vnni amx_int8", ""])
def test_the_machine_that_builds_makes_no_difference(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ir.to_proto(unsaturated(ir.from_proto(gated.tiny("int8")))).SerializeToString()
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: f"flags\t\t: {flags}\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64" if flags else "aarch64")
    assert ir.to_proto(unsaturated(ir.from_proto(gated.tiny("int8")))).SerializeToString() == here


def test_the_graph_that_was_given_stays_as_it_was() -> None:
    model = ir.from_proto(gated.tiny("int8"))
    before = weights_of(model).copy()
    unsaturated(model)
    np.testing.assert_array_equal(weights_of(model), before)
