"""Small graphs for engine tests: a convolution, a gate as channel attention has it, a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES = 5


def tiny(kind: str = "fp32", batch: int | str = 1, size: int = 16) -> onnx.ModelProto:
    """Builds a network of one kind: ``fp32``, ``fp16`` or ``int8`` (symmetric Q/DQ around the convolution)."""
    random = np.random.default_rng(0)
    half = kind == "fp16"
    weights: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, values: Any) -> str:
        array = np.asarray(values)
        if array.dtype.kind == "f":
            array = array.astype(np.float16 if half else np.float32)
        weights.append(numpy_helper.from_array(array, name))
        return name

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"/net/{output}", **attributes))
        return output

    x = add("Cast", ["input"], "half", to=TensorProto.FLOAT16) if half else "input"
    kernel = random.normal(0, 0.3, (32, 3, 3, 3))
    if kind == "int8":
        weight("x_scale", np.float32(3 / 127))
        weight("x_zero", np.int8(0))
        x = add("QuantizeLinear", [x, "x_scale", "x_zero"], "x_q")
        x = add("DequantizeLinear", [x, "x_scale", "x_zero"], "x_dq")
        scales = np.abs(kernel).max(axis=(1, 2, 3)) / 127
        weight("w_int8", np.round(kernel / scales[:, None, None, None]).astype(np.int8))
        weight("w_scale", scales)
        weight("w_zero", np.zeros(32, np.int8))
        w = add("DequantizeLinear", ["w_int8", "w_scale", "w_zero"], "w_dq", axis=0)
    else:
        w = weight("w", kernel)
    x = add("Conv", [x, w, weight("b", random.normal(0, 0.1, 32))], "conv", pads=[1, 1, 1, 1])
    u = add("Relu", [x], "relu")
    s = add("GlobalAveragePool", [u], "pooled")
    z = add("Conv", [s, weight("gate_w", random.normal(0, 0.3, (32, 32, 1, 1)))], "gate")
    v = add("Mul", [u, add("Sigmoid", [z], "sigmoid")], "scaled")
    flat = add("Flatten", [add("GlobalAveragePool", [v], "pooled2")], "flat")
    y = add(
        "Gemm", [flat, weight("fc", random.normal(0, 0.3, (CLASSES, 32)))], "fc_out" if half else "logits", transB=1
    )
    if half:
        add("Cast", [y], "logits", to=TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def save(folder: Path, kind: str = "fp32", batch: int | str = 1, size: int = 16) -> Path:
    """Writes :func:`tiny` into ``folder`` and returns the file."""
    path = folder / f"{kind}-{batch}.onnx"
    onnx.save(tiny(kind, batch, size), path)
    return path


def images(count: int, size: int = 16, seed: int = 1) -> np.ndarray[Any, Any]:
    """Returns ``count`` images of noise, N x 3 x size x size."""
    return np.random.default_rng(seed).normal(0, 1, (count, 3, size, size)).astype(np.float32)


def reference(model: onnx.ModelProto, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Runs a graph with onnx's own reference implementation."""
    from onnx.reference import ReferenceEvaluator

    result: np.ndarray[Any, Any] = ReferenceEvaluator(model).run(None, {"input": array})[0]
    return result
