"""Protects padding, which must change no number, and the finding of layers that hardly multiply."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.export.passes.light_layers import LightForm, LightLayers, LightShape
from tests.networks.mobile import images, mobile
from tests.networks.onnx_text import graph
from tests.networks.residual import logits


def chosen(model: ir.Model, form: LightForm) -> tuple[ir.Model, list[LightShape], dict[str, str]]:
    asked: list[LightShape] = []

    def choose(shape: LightShape) -> tuple[LightForm, str]:
        asked.append(shape)
        return (form if form in shape.forms else "int8"), "because"

    result = LightLayers(choose)(model)
    return result.model, asked, {layer.node: layer.form for layer in result.light_layers}


@pytest.mark.parametrize("swish", ["HardSwish", "SiLU"])
def test_padding_changes_no_number(swish: str) -> None:
    before, x = mobile(swish=swish), images(4)
    exact = logits(before, x)
    after, asked, forms = chosen(before, "padded")
    assert forms == {"node_deep": "padded", "node_gate_fc1_conv": "int8", "node_gate_fc2": "int8"}
    assert [(shape.kind, shape.activation) for shape in asked] == [("depthwise", swish), ("gate", swish)]
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    deep = next(node for node in after.graph if node.name == "node_deep")
    assert deep.attributes.get_int("group") == 32
    np.testing.assert_allclose(logits(after, x), exact, rtol=1e-5, atol=1e-6)


def test_channels_that_leave_the_graph_are_not_padded() -> None:
    model = graph(
        """net (float[1,8,6,6] input) => (float[1,24,6,6] output) <float[24,8,1,1] w, float[24,1,3,3] d> {
            wide = Conv (input, w)
            output = Conv <group = 24, pads = [1, 1, 1, 1]> (wide, d)
        }"""
    )
    before = ir.to_proto(model).SerializeToString()
    result = LightLayers(lambda _: ("padded", "quicker"))(model)
    assert [(layer.form, layer.why) for layer in result.light_layers] == [
        ("int8", "quicker; not padded, its channels reach the graph's input or output")
    ]
    assert not result.modified
    assert ir.to_proto(result.model).SerializeToString() == before


def test_a_grouped_convolution_beside_it_refuses() -> None:
    model = graph(
        """net (float[1,8,6,6] input) => (float[1,8,6,6] output)
           <float[24,8,1,1] w, float[24,1,3,3] d, float[24,12,1,1] g, float[8,24,1,1] o> {
            wide = Conv (input, w)
            deep = Conv <group = 24, pads = [1, 1, 1, 1]> (wide, d)
            mixed = Conv <group = 2> (deep, g)
            output = Conv (mixed, o)
        }"""
    )
    (layer,) = LightLayers(lambda _: ("padded", "quicker"))(model).light_layers
    assert layer.form == "int8"
    assert "by groups" in layer.why


def test_a_network_of_several_types_is_proved_too() -> None:
    model = graph(
        """net (float[1,8,6,6] input, int64[1,3] ids) => (float[1,8,6,6] output, bool[1,3] known, int64[1,3] twice)
           <float[24,8,1,1] w, float[24,1,3,3] d, float[8,24,1,1] o> {
            wide = Conv (input, w)
            deep = Conv <group = 24, pads = [1, 1, 1, 1]> (wide, d)
            output = Conv (deep, o)
            known = Cast <to = 9> (ids)
            twice = Add (ids, ids)
        }"""
    )
    result = LightLayers(lambda _: ("padded", "quicker"))(model)
    assert [layer.form for layer in result.light_layers] == ["padded"]
