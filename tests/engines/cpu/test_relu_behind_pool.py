"""Protects the swap of the first ReLU with its MaxPool: when it is made, that it is exact, and what it is made for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.cpu.relu_behind_pool import ReluBehindPool
from radixrt.engines.registry import get
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.spec import Precision
from tests.networks.convolutions import clone, run

STEM = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[1, 3, 16, 16] image) => (float[1, 8, 4, 4] y)
{
  c = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]> (image, w)
  r = Relu (c)
  p = MaxPool <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1], strides: ints = [2, 2]> (r)
  d = Conv <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (p, v)
  y = Relu (d)
}
"""


def stem(edit: Callable[[str], str] = lambda text: text) -> ir.Model:
    proto = onnx.parser.parse_model(edit(STEM))
    rng = np.random.default_rng(0)
    for name, shape in (("w", (16, 3, 3, 3)), ("v", (8, 16, 3, 3))):
        array = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    return ir.from_proto(proto)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_the_relu_moves_behind_the_pooling_and_no_number_changes() -> None:
    before, after = stem(), stem()
    assert ReluBehindPool()(after).modified
    assert operators(after) == ["Conv", "MaxPool", "Relu", "Conv", "Relu"]
    assert [node.name for node in after.graph] == ["node0", "node2", "node1", "node3", "node4"]
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    assert np.array_equal(run(clone(before), x), run(clone(after), x))
    assert not ReluBehindPool()(after).modified


@pytest.mark.parametrize("read", ["r", "c"])
def test_who_else_reads_what_lies_between_goes_on_doing_so(read: str) -> None:
    def edit(text: str) -> str:
        return text.replace("y = Relu (d)", f"s = ReduceMean <keepdims = 1> ({read})\n  y = Add (d, s)")

    before, after = stem(edit), stem(edit)
    assert ReluBehindPool()(after).modified
    names = [node.name for node in after.graph]
    assert len(set(names)) == len(names)
    assert operators(after).count("Relu") == (2 if read == "r" else 1)
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    assert np.array_equal(run(clone(before), x), run(clone(after), x))


def test_a_relu_that_leaves_the_graph_stays_under_its_name() -> None:
    before = stem(
        lambda text: text.replace("=> (float[1, 8, 4, 4] y)", "=> (float[1, 8, 4, 4] y, float[1, 16, 8, 8] r)")
    )
    after = before.clone()
    assert ReluBehindPool()(after).modified
    names = [node.name for node in after.graph]
    assert len(set(names)) == len(names)
    x = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    assert np.array_equal(run(clone(before), x), run(clone(after), x))


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("c = Conv", "i = Sigmoid (image)\n  c = Conv").replace("(image, w)", "(i, w)"),
        lambda text: text.replace("r = Relu (c)", "r = Tanh (c)"),
        lambda text: text.replace("p = MaxPool", "p = AveragePool"),
    ],
    ids=["not the first convolution", "no relu", "another pooling"],
)
def test_left_alone(edit: Callable[[str], str]) -> None:
    model = stem(edit)
    before = operators(model)
    assert not ReluBehindPool()(model).modified and operators(model) == before


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP32])
def test_only_for_int8_on_onnxruntime(target: str, precision: Precision) -> None:
    model, _ = rewrite(stem(), RewriteOptions(target_passes=get(target).passes(precision)))
    moved = operators(model)[1] == "MaxPool"
    assert moved == (target == "onnxruntime" and precision is Precision.INT8)


def test_onnxruntime_then_pools_floats_and_quantises_behind(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((4, 1, 3, 16, 16)).astype(np.float32)

    def pools_bytes(model: ir.Model) -> bool:
        table = calibrate(model, [{"image": one} for one in x])
        placed, _ = place(model, table, PlacementOptions(get("onnxruntime").traits, last=Ends.INT8))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(ir.to_proto(placed).SerializeToString(), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
        makers = {output: node.op_type for node in nodes for output in node.output}
        (pool,) = (node for node in nodes if node.op_type == "MaxPool")
        return makers[pool.input[0]] == "QuantizeLinear"

    plain, swapped = stem(), stem()
    ReluBehindPool()(swapped)
    assert pools_bytes(plain) and not pools_bytes(swapped)
