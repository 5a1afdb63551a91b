"""A chain of convolutions with one skip over the last two, for comparing graphs layer by layer."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

CONVS = 5


def network() -> ir.Model:
    """Five 3x3 convolutions with ReLU, a skip over the last two, global pooling and a head of four."""
    random = np.random.default_rng(0)
    weights = []
    lines = []
    x, width = "input", 3
    for i in range(CONVS):
        weights += [
            onnx.numpy_helper.from_array(
                (random.normal(size=(32, width, 3, 3)) / np.sqrt(4.5 * width)).astype(np.float32), f"w{i}"
            ),
            onnx.numpy_helper.from_array(random.normal(scale=0.1, size=32).astype(np.float32), f"b{i}"),
        ]
        lines.append(f"c{i} = Conv <pads = [1, 1, 1, 1]> ({x}, w{i}, b{i})")
        lines.append(f"r{i} = Relu (c{i})")
        x, width = f"r{i}", 32
    weights.append(onnx.numpy_helper.from_array((random.normal(size=(32, 4)) / np.sqrt(32)).astype(np.float32), "head"))
    lines += ["joined = Add (r2, r4)", "pooled = GlobalAveragePool (joined)", "flat = Flatten (pooled)"]
    lines.append("logits = MatMul (flat, head)")
    text = f"""<ir_version: 10, opset_import: ["" : 19]>
    net (float[batch, 3, 16, 16] input) => (float[batch, 4] logits) {{ {chr(10).join(lines)} }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(weights)
    for i, node in enumerate(model.graph.node):
        node.name = f"/stage/stage.{i}/{node.op_type}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))
