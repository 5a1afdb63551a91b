"""Layers whose sums saturate in 16 bits, computed by OpenVINO; run as a program, in a process with an instruction set.

    ONEDNN_MAX_CPU_ISA=AVX2 python -m tests.engines.cpu.saturating FOLDER

builds and runs each layer in FOLDER and prints JSON: by name the largest error, relative to the largest output, of the
weights as they are and of those that an engine gets, and the kernels that were used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

from radixrt.engines.base import BuildOptions
from radixrt.engines.cpu.openvino import OpenVinoSession, OpenVinoTarget
from radixrt.engines.cpu.saturation import unsaturated
from radixrt.export.spec import Precision
from tests.networks import gated

# Input channels, kernel, groups: what divides evenly into pairs of channels, and what does not.
LAYERS = {
    "3x3": (64, 3, 1),
    "1x1": (64, 1, 1),
    "1x1 odd": (33, 1, 1),
    "3x3 odd": (9, 3, 1),
    "groups of 4": (64, 3, 16),
    "groups of 6": (48, 3, 8),
    "groups of 3": (24, 3, 8),
    "groups of 5": (40, 3, 8),
    "depthwise": (32, 3, 32),
}


def layer(channels: int, kernel: int, groups: int, signed: bool) -> onnx.ModelProto:
    """An INT8 convolution; the weights of an output channel have one sign, so that the largest inputs saturate it."""
    random = np.random.default_rng(0)
    weight = np.abs(random.normal(0, 1, (channels, channels // groups, kernel, kernel))).clip(0, 3)
    weight *= np.where(random.random((len(weight), 1, 1, 1)) < 0.5, 1, -1)
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    weights = {
        "scale": np.float32(1 / 127 if signed else 1 / 255),
        "zero": np.int8(0) if signed else np.uint8(0),
        "w": np.round(weight / scales[:, None, None, None]).astype(np.int8),
        "w_scale": scales,
        "w_zero": np.zeros(len(weight), np.int8),
    }
    pads = [kernel // 2] * 4
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], axis=0),
        helper.make_node("Conv", ["dq", "w_dq"], ["logits"], group=groups, pads=pads),
    ]
    graph = helper.make_graph(
        nodes,
        "saturating",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, channels, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(weight), 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def error(model: onnx.ModelProto, engine: Path) -> tuple[float, str]:
    """How far an engine is from the graph that it computes, at the largest activations, and its kernel."""
    image = np.ones([dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim], np.float32)
    with OpenVinoSession(engine, 1, profile=True) as session:
        found = session.run({"input": image})["logits"]
        kernels = [row.exec_type for row in session.profiling() if row.node_type == "Convolution"]
    expected = gated.reference(model, image)
    return float(np.abs(found - expected).max() / np.abs(expected).max()), " ".join(kernels)


def main() -> None:
    folder, told = Path(sys.argv[1]), {}
    for name, shape in LAYERS.items():
        for signed in (False, True):
            model = layer(*shape, signed)
            onnx.save(model, folder / "deploy.onnx")
            ov.save_model(ov.Core().read_model(folder / "deploy.onnx"), folder / "plain.xml", compress_to_fp16=False)
            plain, _ = error(model, folder / "plain.xml")
            engine = OpenVinoTarget().build(folder / "deploy.onnx", folder, BuildOptions(Precision.INT8)).files[0]
            fitting = ir.to_proto(unsaturated(ir.from_proto(model)))
            ours, kernel = error(fitting, engine)
            told[f"{name}, {'s8' if signed else 'u8'}"] = (plain, ours, kernel)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
