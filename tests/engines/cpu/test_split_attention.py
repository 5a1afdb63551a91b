"""Protects split attention in INT8 on ONNX Runtime: all of a block is computed in integers, whatever its form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from radixrt.calibration.int8 import sqnr_db
from radixrt.calibration.placement.options import Ends, PlacementOptions, timed_layers
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.base import BuildOptions
from radixrt.engines.forms.graphs import pool_conv_graph, radix_graph
from radixrt.engines.registry import get
from radixrt.export.attention.forms import AttentionForm, Combine, Parts
from radixrt.export.graph.constants import constant
from radixrt.export.passes.conv_shape import KEEP, SPLIT, ConvShape, Form
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.passes.pool_conv import PoolConvShape
from radixrt.export.spec import Precision
from tests.engines.cpu.kernels import kernels
from tests.networks.convolutions import run

TARGET = get("onnxruntime")
BUILD = BuildOptions(Precision.INT8, threads=1)


# A convolution of its own for each group writes its part behind its ReLU: joined behind the ReLU of the whole, the
# parts, the product with the gate and the sum of the branches went through float.
@pytest.mark.parametrize("form", [KEEP, SPLIT])
def test_nothing_between_convolutions_is_float(form: Form, tmp_path: Path) -> None:
    model = radix_graph(32, 8, Precision.INT8)
    options = RewriteOptions(
        attention=AttentionForm(Combine.SCALE, Parts.SLICE),
        choose_form=lambda shape: (form, ""),
        choose_light=lambda shape: ("int8", ""),
        target_passes=TARGET.passes(Precision.INT8),
    )
    model, report = rewrite(model, options)
    assert {record.form for record in report.grouped_convs} == {str(form)}
    images = np.random.default_rng(0).standard_normal((4, 1, 32, 8, 8)).astype(np.float32)
    table = calibrate(model, [{"input": image} for image in images])
    placement = PlacementOptions(TARGET.traits, first=Ends.INT8, last=Ends.INT8, timed=timed_layers(report))
    engine = TARGET.build_graph(place(model, table, placement)[0], tmp_path, BUILD).files[0]
    found = kernels(engine, tmp_path)
    assert found["QuantizeLinear"] == 1, "a map leaves the integers and comes back"
    assert found["QLinearMul"] and found["QLinearAdd"] and found["QLinearGlobalAveragePool"]
    with TARGET.open(engine, threads=1) as session:
        answers = np.concatenate([session.run({"input": image})[session.outputs[0].name] for image in images])
    assert sqnr_db(np.concatenate([run(model, image) for image in images]), answers) > 25


# The average of a window as a depthwise convolution: its weights are one number, which INT8 holds exactly.
def test_a_pooling_as_a_depthwise_convolution_is_in_integers(tmp_path: Path) -> None:
    whole = ConvShape(1, 32, 64, 1, (3, 3), stride=(2, 2), pads=(1, 1, 1, 1), height=9, width=9)
    graph = pool_conv_graph(PoolConvShape(whole, (2, 2)), "depthwise", Precision.INT8, TARGET.traits)
    found = kernels(TARGET.build_graph(graph, tmp_path, BUILD).files[0], tmp_path)
    assert found["QLinearConv"] == 2
    assert not found["AveragePool"] + found["QLinearAveragePool"] + found["Conv"] + found["FusedConv"]
    (light, _) = (node for node in graph.graph if node.op_type == "Conv")
    restored = light.inputs[1].producer() if light.inputs[1] is not None else None
    assert restored is not None
    integers, scales = (constant(value) for value in restored.inputs[:2])
    assert integers is not None and scales is not None
    assert integers.dtype == np.int8
    np.testing.assert_allclose(integers * scales.reshape(-1, 1, 1, 1), np.full((32, 1, 3, 3), 1 / 9), rtol=1e-6)
