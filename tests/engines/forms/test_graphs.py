from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.engines.forms.graphs import grouped_conv_graph, pool_conv_graph
from radixrt.engines.registry import get
from radixrt.export.passes.conv_shape import DENSE, KEEP, SPLIT, Form
from radixrt.export.passes.pool_conv import PoolForm
from radixrt.export.spec import Precision
from tests.engines.forms.shapes import AVD, RESNEXT, TRAITS
from tests.networks.convolutions import run as run_ort


# What is timed must be what is shipped: candidates of equal value, in the precision asked for.
@pytest.mark.parametrize("form", [KEEP, SPLIT, DENSE, Form("merge", 4)])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_candidate_graphs_are_equal(form: Form, precision: Precision) -> None:
    x = np.random.default_rng(0).standard_normal((1, 32, 8, 8)).astype(np.float32)
    traits = replace(TRAITS, full_range_u8=False, zero_points=False)
    want = run_ort(grouped_conv_graph(RESNEXT, KEEP, precision, traits), x)
    model = grouped_conv_graph(RESNEXT, form, precision, traits)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # In INT8 a value on the edge between two codes may fall either way: one step of the scale.
    np.testing.assert_allclose(run_ort(model, x), want, atol=1e-5 if precision is Precision.FP32 else 0.024, rtol=0)
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph)
    assert (pairs > 0) == (precision is Precision.INT8)


# A form must be timed as the placement will leave it: groups narrower than 16 channels stay in float.
@pytest.mark.parametrize(("form", "quantised"), [(KEEP, False), (Form("merge", 4), True), (DENSE, True)])
def test_only_what_the_placement_quantises_is_measured_in_int8(form: Form, quantised: bool) -> None:
    for target in ("onnxruntime", "tensorrt-rtx"):
        model = grouped_conv_graph(RESNEXT, form, Precision.INT8, get(target).traits)
        (conv,) = (node for node in model.graph if node.op_type == "Conv")
        makers = [value.producer() for value in conv.inputs[:2] if value is not None]
        assert (makers[1] is not None and makers[1].op_type == "DequantizeLinear") == quantised
        assert makers[0] is not None and makers[0].op_type == "DequantizeLinear"  # its neighbours are quantised
        assert model.graph.outputs[0].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]


def test_pool_candidates_are_equal() -> None:
    x = np.random.default_rng(0).standard_normal((1, 8, 9, 9)).astype(np.float32)
    forms: tuple[PoolForm, ...] = get_args(PoolForm)
    pair, light, single = (pool_conv_graph(AVD, form, Precision.FP32, TRAITS) for form in forms)
    assert [n.op_type for n in pair.graph] == ["AveragePool", "Conv", "Relu"]
    assert [n.op_type for n in light.graph] == ["Conv", "Conv", "Relu"]
    assert [n.op_type for n in single.graph] == ["Conv", "Relu"]
    for other in (light, single):
        np.testing.assert_allclose(run_ort(other, x), run_ort(pair, x), atol=1e-5, rtol=0)


def test_half_precision_graphs_are_half() -> None:
    model = grouped_conv_graph(RESNEXT, SPLIT, Precision.FP16, TRAITS)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT16
