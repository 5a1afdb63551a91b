"""Decoders and pyramids in INT8: transposed convolutions, what meets in a Concat, what is resized or padded."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.calibration.int8 import sqnr_db
from radixrt.calibration.placement.options import PlacementOptions, PlacementReport
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.recovery.session import QuantSession
from radixrt.engines.registry import get
from radixrt.export.graph.constants import constant
from radixrt.export.graph.session import GraphSession
from tests.networks.onnx_text import graph

# Encoder: stem, a, b. Decoder: ``up`` meets the skip of the stem.
UNET = """net (float[n,3,16,16] input) => (float[n,4,16,16] y)
<float[16,3,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[32,16,3,3] w2, float[32,16,2,2] wt, float[16] bt,
 float[16,32,3,3] w3, float[16,32,1,1] w4, float[4,16,1,1] w5, float[0] none = {}, float[4] twice = {1,1,2,2},
 int64[8] pads = {0,0,1,1,0,0,1,1}> {
  [stem] c0 = Conv<pads=[1,1,1,1]>(input, w0, b0)  [r0] skip = Relu(c0)
  [a] c1 = Conv<pads=[1,1,1,1], strides=[2,2]>(skip, w1)  [r1] ra = Relu(c1)
  [b] c2 = Conv<pads=[1,1,1,1]>(ra, w2)  [r2] rb = Relu(c2)
  UP
  [rt] up = Relu(ct)
  [join] met = Concat<axis=1>(skip, up)
  [pad] padded = Pad(met, pads)
  [last] c3 = Conv(padded, w3)  [r3] r = Relu(c3)
  [end] y = Conv(r, w5)
}"""
UPS = {
    "ConvTranspose": "[up] ct = ConvTranspose<strides=[2,2]>(rb, wt, bt)",
    "nearest": '[resize] larger = Resize<mode="nearest">(rb, none, twice) [up] ct = Conv(larger, w4)',
    "linear": '[resize] larger = Resize<mode="linear">(rb, none, twice) [up] ct = Conv(larger, w4)',
    "cubic": '[resize] larger = Resize<mode="cubic">(rb, none, twice) [up] ct = Conv(larger, w4)',
}


def unet(up: str = "ConvTranspose", **weights: np.ndarray) -> ir.Model:
    return graph(UNET.replace("UP", UPS[up]), **weights)


def images(count: int = 4) -> dict[str, np.ndarray]:
    return {"input": np.random.default_rng(1).normal(size=(count, 3, 16, 16)).astype(np.float32)}


def placed(model: ir.Model, target: str) -> tuple[ir.Model, PlacementReport]:
    options = PlacementOptions(get(target).traits)
    made, report = place(model, calibrate(model, [images()]), options)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)
    return made, report


def scales(model: ir.Model) -> dict[str, float]:
    """The scale of each point."""
    pairs = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    return {str(node.inputs[0].name): float(constant(node.inputs[1])) for node in pairs}  # type: ignore[union-attr, arg-type]


def sqnr(original: ir.Model, made: ir.Model) -> float:
    exact, found = (next(iter(GraphSession(m, optimize=False).over(images(3)).values())) for m in (original, made))
    return sqnr_db(exact, found)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("up", UPS)
def test_a_decoder_runs_in_int8(up: str, target: str) -> None:
    model = unet(up)
    made, report = placed(model, target)
    assert {"a", "b", "last"} <= set(report.quantized)
    assert sqnr(model, made) > 25
    kept = {k.node: k.reason for k in report.kept_float}
    if up == "ConvTranspose":
        transposed = "up" in report.quantized
        assert transposed == (target != "onnxruntime")
        assert transposed or "no INT8 kernel for a transposed convolution" in kept["up"]
    else:
        assert "up" in report.quantized
        assert ("resize" in kept) == (up == "cubic")
        found = scales(made)
        assert up == "cubic" or found["larger"] == found["rb"]
    # What a Concat joins is integers, also behind a layer in float.
    assert {"skip", "up", "met"} <= set(report.points)


def test_a_transposed_convolution_has_a_scale_for_each_output_channel() -> None:
    weight = np.random.default_rng(0).normal(size=(32, 16, 2, 2)) * np.logspace(-3, 0, 16)[None, :, None, None]
    made, _ = placed(unet(wt=weight), "tensorrt")
    node = next(n for n in made.graph if n.name == "up")
    restore = node.inputs[1].producer()  # type: ignore[union-attr]
    assert restore is not None and restore.attributes.get_int("axis", 0) == 1
    per_channel = constant(restore.inputs[1])
    assert per_channel is not None
    np.testing.assert_allclose(per_channel, np.abs(weight.astype(np.float32)).max(axis=(0, 2, 3)) / 127, rtol=1e-6)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_what_meets_has_one_scale(target: str) -> None:
    found = scales(placed(unet(bt=np.full(16, 0.5)), target)[0])
    assert found["met"] == found["padded"]
    wide = max(found["skip"], found["up"])
    assert found["met"] == wide


def test_a_skip_that_is_read_elsewhere_keeps_its_bits() -> None:
    random = np.random.default_rng(0)
    loud = scales(placed(unet(wt=random.normal(size=(32, 16, 2, 2)) * 20), "tensorrt")[0])
    assert loud["up"] == loud["met"] > 2 * loud["skip"]
    quiet = scales(placed(unet(wt=random.normal(size=(32, 16, 2, 2)) * 0.001), "tensorrt")[0])
    assert quiet["up"] == quiet["met"] == quiet["skip"]


def test_the_search_of_recovery_computes_what_the_placement_does() -> None:
    model = unet()
    table = calibrate(model, [images()])
    options = PlacementOptions(get("openvino").traits)
    made, _ = place(model, table, options)
    session = QuantSession(model, options, table)
    exact = next(iter(GraphSession(made, optimize=False).over(images(3)).values()))
    found = session.answers(images(3), session.everything(table))["y"]
    # Numbers that lie between two steps fall on either side.
    assert sqnr_db(exact, found) > 35
