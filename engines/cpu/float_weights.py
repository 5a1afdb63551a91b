"""Weights of layers that ONNX Runtime runs in float although they lie in the graph as integers.

A layer whose output nothing quantises has no INT8 kernel there: a convolution of a pooled vector, as MobileNetV3 has
before its classifier. ONNX Runtime never folds a DequantizeLinear by itself, so such a layer's weights were made anew
from integers at every run, which took longer than the layer. The engine holds them as the floats that they stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import constant, forget
from radixrt.export.graph.writer import GraphWriter


def dequantised_at_every_run(engine: Path, scratch: Path) -> frozenset[str]:
    """Asks ONNX Runtime which constants its optimiser leaves behind a DequantizeLinear.

    Args:
        engine: an ONNX file that ONNX Runtime opens.
        scratch: an empty folder.

    Returns:
        the names of the constants.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    # What comes after this level is layouts, which depend on the processor.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(scratch / "optimised.onnx")
    ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    graph = ir.load(scratch / "optimised.onnx").graph
    sources = (node.inputs[0] for node in graph if node.op_type == "DequantizeLinear")
    return frozenset(value.name for value in sources if value is not None and value.name and value.is_initializer())


def fold(model: ir.Model, names: Iterable[str]) -> None:
    """Replaces what is read from integer constants by the floats themselves, bit for bit. Changes the model in place.

    Args:
        model: an INT8 graph.
        names: of the integer constants.
    """
    wanted = set(names)
    writer = GraphWriter(model.graph)
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        if source is None or source.name not in wanted:
            continue
        folded = _dequantised(node)
        if folded is None:
            continue
        restored = node.outputs[0]
        ir.convenience.replace_all_uses_with(restored, writer.constant(folded, f"{restored.name}_folded"))
        inputs = [value for value in node.inputs if value is not None]
        model.graph.remove(node, safe=True)
        for value in inputs:
            forget(model.graph, value)
    writer.append()


def _dequantised(node: ir.Node) -> NDArray[np.float32] | None:
    """What a DequantizeLinear of a constant makes; None where it is not float32 or works in blocks."""
    integers, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if integers is None or scale is None or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    axis = node.attributes.get_int("axis", 1)
    along = [1] * integers.ndim
    if scale.size > 1:
        along[axis] = -1
    centred = integers.astype(np.int32) - (0 if zero is None else zero.astype(np.int32).reshape(along))
    return np.asarray(centred.astype(np.float32) * scale.reshape(along), np.float32)
