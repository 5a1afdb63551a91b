"""Graphs written as ONNX text, with random weights: what an exporter could have written, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir


def graph(text: str, *, opset: int = 18, seed: int = 0, **weights: np.ndarray) -> ir.Model:
    """Reads the text of a graph; each value that its angle brackets declare becomes a weight, by default random."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    random = np.random.default_rng(seed)
    made = {name for node in proto.graph.node for name in node.output}
    for info in proto.graph.value_info:
        if info.name in made or any(info.name == i.name for i in proto.graph.initializer):
            continue
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        array = weights.get(info.name, random.standard_normal(shape)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))
    onnx.checker.check_model(proto, full_check=True)
    return ir.serde.deserialize_model(proto)
