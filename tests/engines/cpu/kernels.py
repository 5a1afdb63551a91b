"""The operators that ONNX Runtime makes of an engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx

from radixrt.engines.cpu.onnxruntime import session_options


def kernels(engine: Path, folder: Path) -> Counter[str]:
    """Counts what ONNX Runtime runs.

    Args:
        engine: the file.
        folder: takes the optimised graph.
    """
    import onnxruntime as ort

    options = session_options(1)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)
