"""Protects mobile networks in INT8 on ONNX Runtime: that all of them is computed in integers, and rightly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.calibration.int8 import sqnr_db
from radixrt.calibration.placement.options import PlacementOptions, timed_layers
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.base import BuildOptions
from radixrt.engines.cpu.hard_swish import HardSwishParts
from radixrt.engines.cpu.integer_gates import saturating_sums
from radixrt.engines.registry import get
from radixrt.export.graph.equivalence import Proof
from radixrt.export.graph.session import GraphSession
from radixrt.export.passes.light_layers import LightForm, LightLayers
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.spec import Precision
from tests.engines.cpu.kernels import kernels
from tests.networks.mobile import images, mobile
from tests.networks.residual import logits

TARGET = get("onnxruntime")


def placed(form: LightForm, swish: str) -> tuple[ir.Model, ir.Model]:
    """The network rewritten, and its INT8 graph, with light layers in one form."""
    options = RewriteOptions(
        choose_light=lambda shape: (form if form in shape.forms else "int8", ""),
        target_passes=TARGET.passes(Precision.INT8),
    )
    model, report = rewrite(mobile(swish=swish), options)
    table = calibrate(model, [{"input": images(16)}])
    return model, place(model, table, PlacementOptions(TARGET.traits, timed=timed_layers(report)))[0]


@pytest.mark.parametrize("swish", ["HardSwish", "SiLU"])
@pytest.mark.parametrize("form", ["int8", "padded"])
def test_all_but_the_ends_is_computed_in_integers(form: LightForm, swish: str, tmp_path: Path) -> None:
    float_model, int8 = placed(form, swish)
    engine = TARGET.build_graph(int8, tmp_path, BuildOptions(Precision.INT8, threads=1)).files[0]
    found = kernels(engine, tmp_path)
    # The stem, and nothing else: its weights are three channels wide.
    assert found["Conv"] + found["FusedConv"] == 1
    assert found["QLinearConv"] == 8
    assert found["QuantizeLinear"] == 1, "a map leaves the integers and comes back"
    with TARGET.open(engine, threads=1) as session:
        x = images(16, seed=3)
        answers = np.concatenate([session.run({"input": image[None]})["logits"] for image in x])
    assert sqnr_db(logits(float_model, x), answers) > 18


def test_float_light_layers_stay_in_float(tmp_path: Path) -> None:
    _, int8 = placed("float", "HardSwish")
    engine = TARGET.build_graph(int8, tmp_path, BuildOptions(Precision.INT8, threads=1)).files[0]
    found = kernels(engine, tmp_path)
    assert found["QLinearConv"] == 5
    assert found["Conv"] + found["FusedConv"] == 4


def test_hard_swish_in_parts_is_the_same_function() -> None:
    before, x = mobile(), 4 * images(8)
    exact = logits(before, x)
    after = HardSwishParts()(before.clone()).model
    assert Counter(node.op_type for node in after.graph)["HardSwish"] == 1, "that of the stem, which stays in float"
    np.testing.assert_allclose(logits(after, x), exact, rtol=1e-5, atol=1e-5)


def test_saturating_sums_pass_nodes_that_read_nothing() -> None:
    _, model = placed("int8", "HardSwish")
    # PaddlePaddle's exporter keeps numbers in Constant nodes.
    model.graph.insert_before(model.graph[0], ir.node("Constant", [], {"value": ir.tensor([1.0], name="one")}))
    saturating_sums(model)
    assert model.graph[0].op_type == "Constant"


def test_a_hard_swish_whose_parts_are_not_proved_stays() -> None:
    result = HardSwishParts(prove=lambda *_: Proof(1.0, "they differ"))(mobile())
    assert not result.modified
    assert {refusal.reason for refusal in result.refused} == {"hard swish in parts: they differ"}


def test_paddings_that_are_not_proved_are_taken_back() -> None:
    before = mobile()
    names = [node.name for node in before.graph]
    choose = LightLayers(lambda shape: (shape.forms[1], "faster"), prove=lambda *_: Proof(1.0, "they differ"))
    result = choose(before)
    assert [node.name for node in result.model.graph] == names
    assert {layer.form for layer in result.light_layers if layer.why != "faster"} == {"int8"}
    assert any("they differ" in layer.why for layer in result.light_layers)
    proved = LightLayers(lambda shape: (shape.forms[1], "faster"))(mobile())
    assert proved.modified and proved.max_abs_err < 1e-4


def test_saturating_sums_give_the_numbers_of_the_hard_sigmoid() -> None:
    _, before = placed("int8", "HardSwish")
    after = before.clone()
    saturating_sums(after)
    left = [node.name for node in after.graph if node.op_type == "HardSigmoid"]
    assert left == ["hidden_gate"], "that before the classifier, which stays in float"
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    x = 3 * images(8, seed=5)
    pairs = [node.inputs[0] for node in before.graph if node.op_type == "DequantizeLinear"]
    names = [value.name for value in pairs if value is not None and "gate_q" in (value.name or "")]
    assert len(names) == 4
    found = []
    for model in (before, after):
        by_name = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.extend(by_name[name] for name in names)
        session = GraphSession(model, optimize=False)
        found.append([session({"input": image[None]}, names) for image in x])
    for left, right in zip(*found, strict=True):
        for name in names:
            off = np.abs(left[name].astype(int) - right[name].astype(int))
            # A sum that lies between two integers may round either way.
            assert off.max() <= 1 and (off > 0).mean() < 0.02, name


@pytest.mark.parametrize("seen", [False, True])
def test_a_bias_takes_the_offset_where_nobody_else_sees_it(seen: bool) -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[1, 2, 4, 4] x) => (float[1, 3, 4, 4] y)
    <float[3, 2, 1, 1] w = {1, -1, 2, 1, 0.5, -2}, float[3] b = {0.5, 0, -0.5}, float s = {0.003921569}, uint8 z = {0}>
    { c = Conv(x, w, b)  g = HardSigmoid<alpha = 0.1666667, beta = 0.5>(c)  q = QuantizeLinear(g, s, z)
      y = DequantizeLinear(q, s, z) }"""
    model = ir.from_onnx_text(text)
    if seen:
        model.graph.outputs.append(model.graph[0].outputs[0])
    x = {"x": np.linspace(-4, 4, 32, dtype=np.float32).reshape(1, 2, 4, 4)}
    before = GraphSession(model, optimize=False)(x)
    saturating_sums(model)
    after = GraphSession(model, optimize=False)(x)
    assert [node.op_type for node in model.graph].count("HardSigmoid") == int(seen)
    assert set(before) == set(after)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1.01 / 255 if name == "y" else 0)
