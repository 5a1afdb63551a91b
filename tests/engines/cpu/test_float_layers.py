"""Protects the layers that a placement kept in float from ONNX Runtime's optimiser, which would quantise them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from radixrt.engines.base import BuildOptions
from radixrt.engines.cpu.float_layers import keep_float_layers
from radixrt.engines.registry import get
from radixrt.export.spec import Precision

# One weight is a thousand times the others: rounded to 8 bits per tensor, all others would be nothing.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y)
<float s = {0.02}, uint8 z = {128}, float t = {0.05}>
{
  xq = QuantizeLinear (x, s, z)
  xd = DequantizeLinear (xq, s, z)
  c = Conv <pads: ints = [1, 1, 1, 1]> (xd, w, b)
  BEHIND
  q = QuantizeLinear (r, t, z)
  y = DequantizeLinear (q, t, z)
}
"""
BEHIND = {
    "relu": "r = Relu (c)",
    "clip": "lo = Constant <value_float = -0.5> ()\n  hi = Constant <value_float = 2.0> ()\n  r = Clip (c, lo, hi)",
    "nothing": "r = Identity (c)",
}


def network(behind: str) -> ir.Model:
    proto = onnx.parser.parse_model(GRAPH.replace("BEHIND", BEHIND[behind]))
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 4, 3, 3)).astype(np.float32) / 6
    weight[0, 0, 0, 0] = 1000
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.linspace(-1, 1, 4, dtype=np.float32), "b"))
    model = ir.from_proto(proto)
    for node in [n for n in model.graph if n.op_type == "Identity"]:
        ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
        model.graph.remove(node, safe=True)
    return model


def run(model: ir.Model, level: ort.GraphOptimizationLevel) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).uniform(-2, 2, (1, 4, 6, 6)).astype(np.float32)
    return np.asarray(session.run(None, {"x": image})[0])


@pytest.mark.parametrize("behind", BEHIND)
def test_the_layer_stays_in_float(behind: str) -> None:
    plain, kept = network(behind), network(behind)
    keep_float_layers(kept)
    as_written = run(plain, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    assert np.array_equal(run(kept, ort.GraphOptimizationLevel.ORT_DISABLE_ALL), as_written)
    everything = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A step where float rounds another way; but for the guard, all but the one channel with the large weight is lost.
    assert np.abs(run(kept, everything) - as_written).max() <= 0.0501
    assert np.abs(run(plain, everything) - as_written).max() > 0.3


def test_a_session_of_the_target_computes_it_in_float(tmp_path: Path) -> None:
    model = network("relu")
    target = get("onnxruntime")
    engine = target.build_graph(model, tmp_path, BuildOptions(Precision.INT8)).files[0]
    image = np.random.default_rng(1).uniform(-2, 2, (1, 4, 6, 6)).astype(np.float32)
    with target.open(engine) as session:
        found = session.run({"x": image})["y"]
    assert np.abs(found - run(model, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)).max() <= 0.0501


def test_what_onnxruntime_leaves_alone_is_left_alone() -> None:
    model = network("relu")
    relu = next(node for node in model.graph if node.op_type == "Relu")
    model.graph.outputs.append(relu.outputs[0])
    keep_float_layers(model)
    assert not [node for node in model.graph if node.op_type == "LeakyRelu"]
