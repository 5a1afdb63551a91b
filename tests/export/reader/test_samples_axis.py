"""A detector that takes one image without an axis of samples gets one, at both of its ends, and computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from radixrt.export.graph.session import onnx_outputs
from radixrt.export.reader.onnx_file import read_onnx


def detector(opset: int) -> onnx.ModelProto:
    """The pixels of one image 3 x 8 x 8 that are above 0: as many places as there are, and their number."""
    nodes = [
        helper.make_node("Relu", ["image"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["places"]),
        helper.make_node("ReduceMax", ["positive"], ["largest"], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [3, 8, 8])]
    outputs = [
        helper.make_tensor_value_info("places", TensorProto.INT64, [3, "K"]),
        helper.make_tensor_value_info("largest", TensorProto.FLOAT, []),
    ]
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(helper.make_graph(nodes, "net", inputs, outputs), opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("opset", [11, 17])
def test_it_gets_an_axis_of_one_sample(opset: int, tmp_path: Path) -> None:
    model, said = detector(opset), []  # type: ignore[var-annotated]
    onnx.save(model, tmp_path / "net.onnx")
    graph = read_onnx(tmp_path / "net.onnx", remark=said.append)
    assert list(graph.graph.inputs[0].shape or ()) == [1, 3, 8, 8]
    assert [(len(value.shape or ()), (value.shape or [0])[0]) for value in graph.graph.outputs] == [(3, 1), (1, 1)]
    assert "without an axis of samples" in said[0]
    image = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = onnx_outputs(graph)({"image": image[None]})
    for name, array in zip(("places", "largest"), session.run(None, {"image": image}), strict=True):
        np.testing.assert_array_equal(found[name][0], array)
