"""Protects layers that ONNX Runtime runs in float from making their weights anew at every run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.base import GRAPH_NAME, BuildOptions
from radixrt.engines.cpu.float_weights import dequantised_at_every_run, fold
from radixrt.engines.cpu.unsigned import to_unsigned
from radixrt.engines.registry import get
from radixrt.export.spec import Precision
from tests.networks.residual import Net, images, logits


def mobile_head() -> ir.Model:
    """The end of MobileNetV3: a convolution and its activation behind the pooling, and the classifier."""
    net = Net()
    pooled = net.op("GlobalAveragePool", [net.conv_relu("input", "stem", 16)], "pooled_map")
    net.op("HardSwish", [net.conv(pooled, "conv_head", 32, kernel=1)], "hidden")
    net.const("fc.weight", net.rng.normal(size=(4, 32)).astype(np.float32))
    net.const("fc.bias", np.zeros(4, np.float32))
    net.op("Gemm", [net.op("Flatten", ["hidden"], "flat", axis=1), "fc.weight", "fc.bias"], "logits", transB=1)
    return net.build(shape=[4])


def placed(last: Ends) -> ir.Model:
    model = mobile_head()
    # With its vectors in INT8 this network would have no such layer; others have, where nothing quantises an output.
    traits = replace(get("onnxruntime").traits, int8_between=False)
    options = PlacementOptions(traits, first=Ends.INT8, last=last)
    return place(model, calibrate(model, [{"input": images(4)}]), options)[0]


@pytest.mark.parametrize("last", list(Ends))
def test_no_engine_makes_weights_at_every_run(last: Ends, tmp_path: Path) -> None:
    built = get("onnxruntime").build_graph(placed(last), tmp_path, BuildOptions(Precision.INT8, threads=1))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    unfolded = tmp_path / "unfolded.onnx"
    ir.save(to_unsigned(ir.load(tmp_path / GRAPH_NAME)), unfolded)
    assert dequantised_at_every_run(unfolded, scratch), "this graph proves nothing"
    assert not dequantised_at_every_run(built.files[0], scratch)


def test_the_numbers_stay_bit_for_bit(tmp_path: Path) -> None:
    before = to_unsigned(placed(Ends.FLOAT))
    after = before.clone()
    names = [n.inputs[0].name for n in after.graph if n.op_type == "DequantizeLinear" and n.inputs[0].is_initializer()]  # type: ignore[union-attr]
    assert names
    fold(after, [name for name in names if name])
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert not set(names) & set(after.graph.initializers)
    x = images(4, seed=3)
    assert np.array_equal(logits(before, x, optimize=False), logits(after, x, optimize=False))


@pytest.mark.parametrize(("axis", "zero"), [(0, None), (1, 3), (-1, 0)])
def test_an_axis_and_a_zero_point_are_read(axis: int, zero: int | None) -> None:
    integers = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scales = np.linspace(0.1, 0.7, integers.shape[axis], dtype=np.float32)
    inputs = ["w", "s"] if zero is None else ["w", "s", "z"]
    nodes = [
        onnx.helper.make_node("DequantizeLinear", inputs, ["f"], axis=axis),
        onnx.helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    constants = {"w": integers, "s": scales, "z": np.full(scales.shape, zero or 0, np.int8)}
    proto = onnx.helper.make_graph(
        nodes,
        "net",
        [onnx.helper.make_tensor_value_info("x", 1, [2, 3])],
        [onnx.helper.make_tensor_value_info("y", 1, [2, 4])],
        [onnx.numpy_helper.from_array(constants[name], name) for name in inputs],
    )
    model = ir.from_proto(
        onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    )
    x = {"x": np.ones((2, 3), np.float32)}
    want = onnx.reference.ReferenceEvaluator(ir.to_proto(model)).run(None, x)[0]
    fold(model, ["w"])
    assert [node.op_type for node in model.graph] == ["MatMul"]
    assert np.array_equal(onnx.reference.ReferenceEvaluator(ir.to_proto(model)).run(None, x)[0], want)
