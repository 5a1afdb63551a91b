"""An ONNX file of an old opset becomes one of opset 18, by onnx's own converter, and is seen to compute the same.

So every graph behind the reader is of opset 18 or later, and no pass writes nodes for an older one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter

from radixrt.errors import InputError, first_line
from radixrt.export.sides import HEIGHT_DIM, WIDTH_DIM, Sides, Size
from radixrt.export.source.reference import onnx_outputs

OLDEST_OPSET = 18  # what the exporter writes


def convert_opset(proto: onnx.ModelProto, old: int, path: Path, sides: Sides | None = None) -> onnx.ModelProto:
    """Brings a file written for opset ``old``, whose image has such ``sides``, to :data:`OLDEST_OPSET`.

    Raises:
        InputError: the converter cannot, or its result computes something else.
    """
    message = f"{path} is written for opset {old} and cannot be converted: export it at {OLDEST_OPSET} or later"
    try:
        if proto.functions:  # which the converter does not know
            proto = onnx.inliner.inline_local_functions(proto)
        converted: onnx.ModelProto = onnx.version_converter.convert_version(proto, OLDEST_OPSET)
        # The same float32 operations in the same order; the runtime may fuse them differently.
        before, after = run_once(proto, sides=sides), run_once(converted, sides=sides)
        same = all(np.allclose(before[name], after[name], rtol=1e-4, atol=1e-5) for name in before)
    except Exception as error:  # the converter's and the runtime's own errors
        raise InputError(f"{message} ({first_line(error)})") from error
    if not same:
        raise InputError(f"{message} (the converted graph computes something else)")
    return converted


def run_once(proto: onnx.ModelProto, batch: int = 1, *, sides: Sides | None = None) -> dict[str, np.ndarray]:
    """Runs a graph on random images, as many as its batch says or, where it is free, ``batch``.

    Whatever fails raises its own error.
    """
    return onnx_outputs(proto)(random_samples(proto, batch, sides.lowest if sides else None))


def random_samples(proto: onnx.ModelProto, batch: int = 1, size: Size | None = None) -> dict[str, np.ndarray]:
    """Inputs that a graph takes; ``batch`` of them where it does not say how many, of ``size`` where sides are free."""
    random = np.random.default_rng(0)
    free = dict(zip((HEIGHT_DIM, WIDTH_DIM), size or (0, 0), strict=True))
    feed = {}
    for value in proto.graph.input:
        count, *sides = [side.dim_value or free.get(side.dim_param, 0) for side in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [count or batch, *sides]
        # An integer may be an index, of which 0 and 1 are the likeliest to exist.
        numbers = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        feed[value.name] = numbers.astype(dtype)
    return feed
