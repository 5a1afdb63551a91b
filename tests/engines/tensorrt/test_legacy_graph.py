from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.engines.tensorrt.legacy_graph import to_opset_17
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
