"""An ONNX file of an old opset becomes one of opset 18, by onnx's own converter, and is seen to compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from radixrt.errors import InputError, first_line
from radixrt.export.source.reference import onnx_outputs

CONVERTED_OPSET = 18  # what the exporter writes


def convert_opset(proto: onnx.ModelProto, old: int, path: Path) -> onnx.ModelProto:
    """Brings a file written for opset ``old`` to :data:`CONVERTED_OPSET`.

    Raises:
        InputError: the converter cannot, or its result computes something else.
    """
    message = f"{path} is written for opset {old} and cannot be converted: export it at 13 or later"
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(proto, CONVERTED_OPSET)
        # The same float32 operations in the same order; the runtime may fuse them differently.
        before, after = run_once(proto), run_once(converted)
        same = all(np.allclose(before[name], after[name], rtol=1e-4, atol=1e-5) for name in before)
    except Exception as error:  # the converter's and the runtime's own errors
        raise InputError(f"{message} ({first_line(error)})") from error
    if not same:
        raise InputError(f"{message} (the converted graph computes something else)")
    return converted


def run_once(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Runs a graph on random images, one or its static batch; whatever fails raises its own error."""
    sides = [side.dim_value or 1 for side in proto.graph.input[0].type.tensor_type.shape.dim]
    return onnx_outputs(proto)(np.random.default_rng(0).standard_normal(sides).astype(np.float32))
