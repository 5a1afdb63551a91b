"""Protects the GELU that becomes one operator: in every spelling, the same function; and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.engines.cpu.one_gelu import OneGelu
from radixrt.engines.registry import get
from radixrt.export.spec import Precision
from tests.networks.convolutions import clone, run

CURVE = "a = Div (x, root) e = Erf (a) s = Add (e, one)"
PRODUCT = "a = Mul (inverse, x) e = Erf (a) s = Add (one, e)"
TWICE = f"{CURVE} g = Mul (x, s)"


def network(body: str) -> ir.Model:
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 18]>
    net (float[1, 4, 5, 5] image) => (float[1, 4, 5, 5] y)
    <float root = {{1.41421356}}, float inverse = {{0.70710678}}, float one = {{1}}, float[1] half = {{0.5}}>
    {{ x = Conv (image, w) {body} }}""")
    random = np.random.default_rng(0)
    for name in ("u", "v", "w"):
        array = random.standard_normal((4, 4, 1, 1)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for node in list(model.graph):
        node.name = node.outputs[0].name
    return model


@pytest.mark.parametrize(
    "body",
    [
        f"{CURVE} g = Mul (x, s) h = Mul (g, half) y = Conv (h, v)",
        f"{PRODUCT} g = Mul (s, x) h = Mul (half, g) y = Add (h, image)",
        f"{CURVE} h = Mul (x, half) y = Mul (s, h)",
        f"{TWICE} y = Conv (g, v)",
        f"{PRODUCT} g = Mul (x, s) k = Conv (g, u) m = Conv (g, v) y = Add (k, m)",
    ],
    ids=["half behind", "half behind, turned", "half in front", "half in the weights", "half in the weights of two"],
)
def test_a_gelu_is_one_operator(body: str) -> None:
    before = network(body)
    after = before.clone()
    assert OneGelu()(after).modified
    assert [node.op_type for node in after.graph].count("Gelu") == 1
    assert not {"Erf", "Div", "Mul"} & {node.op_type for node in after.graph}
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    x = np.random.default_rng(1).standard_normal((1, 4, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(run(clone(after), x), run(clone(before), x), rtol=1e-5, atol=1e-5)
    assert not OneGelu()(after).modified


@pytest.mark.parametrize(
    "body",
    [
        f"{TWICE} c = Conv (g, v) y = Add (c, g)",
        f"{TWICE} y = Conv (g, w)",
        f"{TWICE.replace('root', 'one')} y = Conv (g, v)",
        f"{TWICE.replace('(x, root)', '(root, x)')} y = Conv (g, v)",
        f"{TWICE.replace('(x, s)', '(image, s)')} y = Conv (g, v)",
        f"{TWICE.replace('(e, one)', '(e, half)')} y = Conv (g, v)",
    ],
    ids=["read by a sum", "weights of another layer", "another slope", "an inverse", "another number", "another shift"],
)
def test_left_alone(body: str) -> None:
    assert not OneGelu()(network(body)).modified


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP32])
def test_only_for_int8_on_onnxruntime(target: str, precision: Precision) -> None:
    found = any(isinstance(one, OneGelu) for one in get(target).passes(precision))
    assert found == (target == "onnxruntime" and precision is Precision.INT8)
