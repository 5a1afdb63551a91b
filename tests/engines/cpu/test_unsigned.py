"""Protects idea 3 of the design: the CPU's unsigned graph is the device's signed graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.engines.cpu.unsigned import to_unsigned
from radixrt.engines.registry import get
from radixrt.export.graph.session import GraphSession
from radixrt.export.spec import Traits
from tests.networks.residual import Net, images, logits, plain, se_block, split_block

BLOCKS = {"plain": plain, "se": se_block, "split": split_block}


def upper_half_only(target: str) -> Traits:
    """What a target wants, but in s8: tensors that are never negative take its upper half."""
    return replace(get(target).traits, full_range_u8=False, weights_in_pairs=False, zero_points=False)


def quantised(model: ir.Model, target: str, **more: Ends) -> ir.Model:
    # Calibrated on few and quiet images, so that the ones compared below saturate often.
    table = calibrate(model, [{"input": images(2) * 0.5}], CalibrationOptions(Method.MINMAX))
    return place(model, table, PlacementOptions(upper_half_only(target), **more))[0]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("ends", list(Ends))
def test_the_unsigned_form_equals_the_signed_graph_number_for_number(block: str, target: str, ends: Ends) -> None:
    signed = quantised(BLOCKS[block](), target, first=ends, last=ends)
    unsigned = to_unsigned(signed)
    onnx.checker.check_model(ir.to_proto(unsigned), full_check=True)
    kinds = {v.dtype for n in unsigned.graph if n.op_type == "QuantizeLinear" for v in n.outputs}
    assert kinds == {ir.DataType.UINT8}
    x = images(4, seed=2)
    want = logits(signed, x, optimize=False)
    got = logits(unsigned, x, optimize=False)
    assert np.array_equal(want, got)


@pytest.mark.parametrize("positive", [True, False])
def test_integer_kernels_agree_to_one_step(positive: bool) -> None:
    # Large weights and saturating activations: without VNNI, x86 overflows here where the unsigned form has no guard.
    net = Net(channels=32, size=12)
    x = net.op("Relu", ["input"], "x") if positive else "input"
    net.op("Relu", [net.conv(x, "conv", 32)], "relu")
    net.conv("relu", "out", 8)
    model = net.build("out", shape=[8, 12, 12])
    data = np.sign(images(2, size=12, channels=32)) * 3
    table = calibrate(model, [{"input": data}], CalibrationOptions(Method.MINMAX))
    signed, _ = place(model, table, PlacementOptions(upper_half_only("onnxruntime"), first=Ends.INT8, last=Ends.INT8))
    # The tensor right behind the integer convolution, before errors can travel on.
    scale = table.amax("relu") / 127
    exact = GraphSession(signed, ["relu_dq"], optimize=False)({"input": data})["relu_dq"]
    fast = GraphSession(to_unsigned(signed), ["relu_dq"])({"input": data})["relu_dq"]
    steps = np.abs(exact - fast) / scale
    assert steps.max() <= 1 + 1e-3
    assert (steps > 0.5).mean() < 1e-3


def test_convolutions_run_in_integers_on_the_cpu(tmp_path: Path) -> None:
    unsigned = to_unsigned(quantised(plain(), "onnxruntime", first=Ends.INT8, last=Ends.INT8))
    options = ort.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimised.onnx"
    options.log_severity_level = 3
    ort.InferenceSession(ir.to_proto(unsigned).SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(f"{tmp_path}/optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 4
    assert "Conv" not in kinds and "FusedConv" not in kinds


# Beside u8 weights the kernels for VNNI and AMX are two to three times slower.
def test_a_cpu_graph_keeps_signed_weights_beside_activations_with_a_zero_point(tmp_path: Path) -> None:
    model, x = plain(), images(4, seed=2)
    table = calibrate(model, [{"input": images(8)}], CalibrationOptions(Method.MINMAX))
    options = PlacementOptions(get("onnxruntime").traits, first=Ends.INT8, last=Ends.INT8)
    signed, _ = place(model, table, options)
    unsigned = to_unsigned(signed)
    assert np.array_equal(logits(signed, x, optimize=False), logits(unsigned, x, optimize=False))
    found = integer_kernels(unsigned, tmp_path)
    assert found == ["INT8"] * 4
    zeros = {int(n.inputs[2].const_value.numpy()) for n in unsigned.graph if n.op_type == "QuantizeLinear"}  # type: ignore[union-attr]
    assert zeros > {0}, "no activation has a zero point"


def test_weights_that_would_overflow_become_unsigned(tmp_path: Path) -> None:
    signed = quantised(plain(), "onnxruntime", first=Ends.INT8, last=Ends.INT8)
    assert "UINT8" in integer_kernels(to_unsigned(signed), tmp_path)


def integer_kernels(model: ir.Model, folder: Path) -> list[str]:
    """The types of the weights of all convolutions that ONNX Runtime runs in integers."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    graph = ir.load(folder / "optimised.onnx").graph
    weights = [node.inputs[3] for node in graph if node.op_type == "QLinearConv"]
    return [value.dtype.name for value in weights if value is not None and value.dtype is not None]


def test_the_signed_graph_is_left_alone() -> None:
    signed = quantised(plain(), "tensorrt")
    before = ir.to_proto(signed).SerializeToString(deterministic=True)
    to_unsigned(signed)
    assert ir.to_proto(signed).SerializeToString(deterministic=True) == before
