"""Numbers that go wrong on their way to INT8: no scale is zero or denormal, and engines compute what float32 does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.int8 import SCALE_FLOOR
from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.registry import get
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.source.reference import onnx_runner
from radixrt.export.spec import BatchSpec, Precision
from tests.networks.chain import network

IMAGES = np.random.default_rng(1).normal(size=(4, 3, 16, 16)).astype(np.float32)


def spoil(model: ir.Model, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.tensor(change(value.const_value.numpy().copy()).astype(np.float32), name=name)


def dead_channels(model: ir.Model) -> None:
    for name in ("w2", "b2"):
        spoil(model, name, lambda w: np.concatenate([np.zeros_like(w[:5]), w[5:]]))


def dead_tensor(model: ir.Model) -> None:
    spoil(model, "w1", np.zeros_like)
    spoil(model, "b1", lambda b: -np.abs(b))


def denormal_weights(model: ir.Model) -> None:
    spoil(model, "w2", lambda w: w * 1e-41)


def denormal_channel(model: ir.Model) -> None:
    spoil(model, "w2", lambda w: np.concatenate([w[:1] * 1e-41, w[1:]]))
    spoil(model, "b2", lambda b: np.concatenate([b[:1] * 0, b[1:]]))


def denormal_activations(model: ir.Model) -> None:
    for name in ("w0", "b0"):
        spoil(model, name, lambda w: w * 1e-39)
    spoil(model, "b1", np.zeros_like)


def large_activations(model: ir.Model) -> None:
    for name in ("w0", "b0"):
        spoil(model, name, lambda w: w * 1e30)


def constant_output(model: ir.Model) -> None:
    spoil(model, "head", np.zeros_like)


CASES = (
    dead_channels,
    dead_tensor,
    denormal_weights,
    denormal_channel,
    denormal_activations,
    large_activations,
    constant_output,
)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_no_number_breaks_int8(change: Callable[[ir.Model], None], target: str, tmp_path: Path) -> None:
    model = network()
    change(model)
    table = calibrate(model, [{"input": IMAGES}], threads=1)
    int8, report = place(model, table, PlacementOptions(get(target).traits, first=Ends.INT8))
    assert len(report.quantized) >= 4, "nothing of interest was quantised"
    scales = [scale for node in int8.graph if node.op_type == "QuantizeLinear" for scale in [node.inputs[1]]]
    for scale in scales:
        assert scale is not None and scale.const_value is not None
        values = scale.const_value.numpy()
        assert np.isfinite(values).all() and (values >= SCALE_FLOOR).all(), f"{scale.name} is {values.min()}"
    write_onnx(int8, tmp_path / "deploy.onnx")
    engine = registry.get(target)
    options = BuildOptions(Precision.INT8, BatchSpec(1, 4))
    built = engine.build(tmp_path / "deploy.onnx", tmp_path, options).files[0]
    with engine.open(built, threads=1) as session:
        found = session.run({"input": IMAGES})["logits"]
    expected = onnx_runner(model)({"input": IMAGES})
    # A tenth of the largest logit: eight bits over five layers, and denormals that engines flush to zero.
    allowed = 0.1 * max(float(np.abs(expected).max()), 10 * SCALE_FLOOR)
    np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


def test_dead_channels_and_tensors_are_named() -> None:
    model = network()
    dead_channels(model)
    found = calibrate(model, [{"input": IMAGES}], threads=1).find("r2")
    assert found is not None and found.dead_channels == (0, 1, 2, 3, 4)
    model = network()
    dead_tensor(model)
    table = calibrate(model, [{"input": IMAGES}], threads=1)
    assert table.amax("r1") == 0.0
