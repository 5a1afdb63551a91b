"""Normalisation that an exporter wrote as arithmetic folds into the layer before it, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from radixrt.export.graph.session import onnx_outputs
from radixrt.export.passes.fold_affine import FoldAffine
from tests.networks.onnx_text import graph

_SHAPES = {
    "Conv": ("y = Conv<pads=[1,1,1,1]>(x, w, b)", "float[6,4,3,3] w, float[6] b", "[1,6,1,1]"),
    "Conv without bias": ("y = Conv(x, w)", "float[6,4,1,1] w", "[6,1,1]"),
    "depthwise": ("y = Conv<group=4>(x, w)", "float[4,1,3,3] w", "[1,4,1,1]"),
    "ConvTranspose": ("y = ConvTranspose<strides=[2,2]>(x, w, b)", "float[4,6,2,2] w, float[6] b", "[1,6,1,1]"),
    "grouped ConvTranspose": ("y = ConvTranspose<group=2>(x, w)", "float[4,3,3,3] w", "[1,6,1,1]"),
    "one number": ("y = Conv(x, w)", "float[6,4,3,3] w", "[1]"),
}


@pytest.mark.parametrize("layer", _SHAPES)
@pytest.mark.parametrize("order", ["y, s", "s, y"])
def test_a_product_and_a_sum_behind_a_layer_become_its_weight_and_bias(layer: str, order: str) -> None:
    text, weights, shape = _SHAPES[layer]
    model = graph(
        f"net (float[2,4,7,7] x) => (float[N,C,H,W] z) <{weights}, float{shape} s, float{shape} t, float{shape} d>\n"
        f"{{ {text} y1 = Mul({order}) y2 = Div(y1, d) y3 = Sub(t, y2) z = Relu(y3) }}"
    )
    images = np.random.default_rng(3).standard_normal((2, 4, 7, 7)).astype(np.float32)
    before = onnx_outputs(model)({"x": images})["z"]
    result = FoldAffine()(model)
    assert result.modified and not result.refused
    assert [node.op_type for node in model.graph] == [text.split(" = ")[1].split("<")[0].split("(")[0], "Relu"]
    np.testing.assert_allclose(onnx_outputs(model)({"x": images})["z"], before, rtol=1e-4, atol=1e-4)


def test_a_fully_connected_layer_takes_one_number_for_each_row() -> None:
    model = graph(
        "net (float[2,5] x) => (float[2,3] z) <float[5,3] w, float[3] b, float[3] s, float[1,3] t>\n"
        "{ y = Gemm(x, w, b) y1 = Mul(y, s) z = Add(y1, t) }"
    )
    data = np.random.default_rng(3).standard_normal((2, 5)).astype(np.float32)
    before = onnx_outputs(model)({"x": data})["z"]
    assert FoldAffine()(model).modified and len(model.graph) == 1
    np.testing.assert_allclose(onnx_outputs(model)({"x": data})["z"], before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        pytest.param("y = Conv(x, w) z = Mul(y, s) u = Relu(y)", "float[1,4,1,1] s", id="read elsewhere"),
        pytest.param("y = Conv(x, w) z = Mul(y, s) u = Relu(x)", "float[7] s", id="differs from place to place"),
        pytest.param("y = Conv(x, w) z = Mul(y, x) u = Relu(x)", "float[1] s", id="no constant"),
        pytest.param("y = Conv(x, w) z = Div(s, y) u = Relu(x)", "float[1] s", id="divided by the layer"),
        pytest.param(
            "y = Conv(x, w) z0 = Add(y, s) z = Squeeze(z0) u = Relu(x)", "float[1,1,4,1,1] s", id="of another rank"
        ),
    ],
)
def test_anything_else_is_left_alone(body: str, weights: str) -> None:
    model = graph(
        f"net (float[2,4,7,7] x) => (float[a,b,c,d] z, float[a,b,c,d] u) <float[4,4,1,1] w, {weights}>\n{{ {body} }}"
    )
    assert not FoldAffine()(model).modified


def test_a_division_by_zero_is_left_alone() -> None:
    model = graph(
        "net (float[2,4,7,7] x) => (float[2,4,7,7] z) <float[4,4,1,1] w, float[1] s>\n{ y = Conv(x, w) z = Div(y, s) }",
        s=np.zeros(1),
    )
    assert not FoldAffine()(model).modified
