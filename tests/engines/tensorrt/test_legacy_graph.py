from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.engines.tensorrt.legacy_graph import legacy_form, to_opset_17
from radixrt.engines.tensorrt.target import TensorRtTarget
from radixrt.errors import InputError
from tests.networks import gated


def reduced(*, constant: bool) -> onnx.ModelProto:
    """A mean over the image and a split in two, as opset 18 writes them."""
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4, 8, 8])]
    weights = [numpy_helper.from_array(np.array([2, 3], np.int64), "axes")]
    if not constant:
        inputs.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [2]))
        weights = []
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=1, name="mean"),
        helper.make_node("Split", ["mean"], ["a", "b"], axis=1, num_outputs=2, name="split"),
        helper.make_node("Sub", ["a", "b"], ["logits"], name="sub"),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, 1, 1])]
    graph = helper.make_graph(nodes, "reduced", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


# Valid and equal: a graph that the checker takes at opset 17 and that gives the same numbers.
def test_opset_18_forms_become_opset_17_forms_of_the_same_value() -> None:
    before = reduced(constant=True)
    model = ir.from_proto(before)
    to_opset_17(model)
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert after.opset_import[0].version == 17
    array = np.random.default_rng(0).normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(gated.reference(after, array), gated.reference(before, array))


def test_axes_that_are_computed_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="'mean' computes its axes"):
        to_opset_17(ir.from_proto(reduced(constant=False)))


def test_a_graph_newer_than_what_is_known_is_refused() -> None:
    model = ir.from_proto(reduced(constant=True))
    model.opset_imports[""] = 23
    with pytest.raises(InputError, match="opset 23"):
        to_opset_17(model)


def int8(version: int = 18) -> onnx.ModelProto:
    model = gated.tiny("int8")
    model.opset_import[0].version, model.ir_version = version, 8
    return model


def answers(model: onnx.ModelProto, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The graph as it stands: the runtime fuses and folds nothing."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"input": array})
    return np.asarray(found[0])


# TensorRT 8.x: "invalid weights type of Int8". Its own way to INT8 weights is FP32 behind a Q and a DQ.
@pytest.mark.parametrize("version", [17, 18])
def test_int8_weights_stand_as_float_behind_q_and_dq(version: int) -> None:
    before = int8(version)
    made = legacy_form(ir.from_proto(before))
    assert made is not None
    after = ir.to_proto(made)
    onnx.checker.check_model(after, full_check=True)
    assert after.opset_import[0].version == 17
    kinds = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    makers = {name: node for node in after.graph.node for name in node.output}
    pairs = [node for node in after.graph.node if node.op_type == "DequantizeLinear"]
    assert len(pairs) == 2, "one of the activation, one of the weight"
    assert all(makers[node.input[0]].op_type == "QuantizeLinear" for node in pairs)
    (weight,) = (makers[node.input[0]] for node in pairs if makers[node.input[0]].input[0] in kinds)
    assert kinds[weight.input[0]] == kinds[weight.input[1]] == TensorProto.FLOAT
    # Only zero points are integers.
    assert {name for name, kind in kinds.items() if kind == TensorProto.INT8} == {"x_zero", "w_zero"}
    np.testing.assert_array_equal(answers(after, gated.images(1)), answers(before, gated.images(1)))


# float32 rounds twice on the way to the float weight and back: no integer may move by it, whatever its scale.
def test_every_integer_comes_back_from_its_float() -> None:
    random = np.random.default_rng(0)
    scales = np.exp(random.uniform(-18, 8, 4096)).astype(np.float32)
    integers = np.tile(np.arange(-127, 128, dtype=np.int8), (4096, 1))
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["weight"], axis=0)]
    nodes += [helper.make_node("Add", ["input", "weight"], ["logits"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4096, 255]) for name in ("input", "logits")]
    constants = [numpy_helper.from_array(integers, "w"), numpy_helper.from_array(scales, "s")]
    graph = helper.make_graph(nodes, "weights", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = legacy_form(ir.from_proto(onnx.shape_inference.infer_shapes(model)))
    assert made is not None
    zeros = np.zeros((4096, 255), np.float32)
    found = answers(ir.to_proto(made), zeros)
    np.testing.assert_array_equal(found, answers(model, zeros))
    np.testing.assert_array_equal(np.round(found / scales[:, None]), integers)


def test_a_graph_that_these_versions_read_has_no_other_form() -> None:
    model = gated.tiny("fp32")
    model.opset_import[0].version = 17
    assert legacy_form(ir.from_proto(model)) is None


def of(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray[Any, Any]], version: int) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 6, 4, 4]) for name in ("input", "logits")]
    arrays = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


# The parser of 8.5 has no importer for these: every MobileNetV3 holds nineteen HardSwish, and JetPack 5 refused it.
@pytest.mark.parametrize(
    ("version", "kind", "attributes", "constants"),
    [
        (17, "HardSwish", {}, {}),
        (18, "Mish", {}, {}),
        (20, "Gelu", {}, {}),
        (20, "Gelu", {"approximate": "tanh"}, {}),
        (17, "LayerNormalization", {}, {"scale": np.linspace(0.5, 2, 4), "shift": np.arange(4)}),
        (18, "LayerNormalization", {"axis": 1, "epsilon": 1e-3}, {"scale": np.full((6, 4, 4), 0.5)}),
    ],
)
def test_operators_that_8_5_does_not_know_are_written_out(
    version: int, kind: str, attributes: dict[str, Any], constants: dict[str, np.ndarray[Any, Any]]
) -> None:
    node = helper.make_node(kind, ["input", *constants], ["logits"], name="act", **attributes)
    before = of([node], {name: array.astype(np.float32) for name, array in constants.items()}, version)
    made = legacy_form(ir.from_proto(before))
    assert made is not None
    after = ir.to_proto(made)
    onnx.checker.check_model(after, full_check=True)
    assert after.opset_import[0].version == 17 and kind not in {node.op_type for node in after.graph.node}
    array = np.random.default_rng(0).normal(0, 2, (2, 6, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(answers(after, array), answers(before, array), atol=2e-6, rtol=1e-5)


# "This version of TensorRT requires 3 inputs for the DequantizeLinear operator."
def test_every_pair_has_its_zero_point() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "step"], ["logits"]),
    ]
    before = of(nodes, {"step": np.asarray(0.05, np.float32), "zero": np.asarray(0, np.int8)}, 17)
    made = legacy_form(ir.from_proto(onnx.shape_inference.infer_shapes(before)))
    assert made is not None
    after = ir.to_proto(made)
    onnx.checker.check_model(after, full_check=True)
    assert {len(node.input) for node in after.graph.node} == {3}
    array = np.random.default_rng(0).normal(0, 2, (2, 6, 4, 4)).astype(np.float32)
    np.testing.assert_array_equal(answers(after, array), answers(before, array))


@pytest.mark.parametrize(
    ("version", "nodes", "constants", "said"),
    [
        (17, [("Mod", ["input", "by"], {"fmod": 1})], {"by": np.float32(3)}, "no Mod"),
        (18, [("GroupNormalization", ["input", "by", "by"], {"num_groups": 2})], {"by": np.ones(2)}, "no Group"),
        (17, [("QuantizeLinear", ["input", "by", "zero"], {})], {"by": np.float32(1), "zero": np.uint8(3)}, "signed"),
    ],
)  # fmt: skip
def test_what_8_5_cannot_read_is_named(
    version: int, nodes: list[Any], constants: dict[str, Any], said: str, tmp_path: Path
) -> None:
    written = [helper.make_node(kind, inputs, ["logits"], name="n", **how) for kind, inputs, how in nodes]
    model = ir.from_proto(of(written, {name: np.asarray(array) for name, array in constants.items()}, version))
    with pytest.raises(InputError, match=said):
        legacy_form(model)
    (remark,) = TensorRtTarget().remarks(model)
    assert "JetPack 5 and 6.0" in remark and said in remark
