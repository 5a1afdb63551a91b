"""An ONNX file of an old opset becomes one of a newer, by onnx's own converter, and is seen to compute the same.

A file that cannot be run, for it holds operators that nobody here knows, is converted around these and taken as it is.

So every graph behind the reader is of opset 18 or later, and no pass writes nodes for an older one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter

from radixrt.errors import InputError, first_line
from radixrt.export.graph.session import run_once
from radixrt.export.sides import Sides

OLDEST_OPSET = 18  # what the exporter writes
PAIRS_OPSET = 21
"""From here on the standard's Q/DQ pairs have what those of ONNX Runtime's own domain always had: 16 and 4 bits, FP16
scales, one scale per channel."""


def opset_of(proto: onnx.ModelProto) -> int:
    """The opset of the standard operators, whose domain is spelt plainly; 0 where a file names none."""
    return next((entry.version for entry in proto.opset_import if not entry.domain), 0)


def convert_opset(
    proto: onnx.ModelProto, path: Path, new: int = OLDEST_OPSET, *, sides: Sides | None = None, runs: bool = True
) -> onnx.ModelProto:
    """Brings a file whose image has such ``sides`` to opset ``new``; where it ``runs``, both are held together.

    Raises:
        InputError: the converter cannot, or its result computes something else.
    """
    message = f"{path} is written for opset {opset_of(proto)} and cannot be converted: export it at {new} or later"
    try:
        if proto.functions:  # which the converter does not know
            proto = onnx.inliner.inline_local_functions(proto)
        converted: onnx.ModelProto = onnx.version_converter.convert_version(proto, new)
        if not runs:
            return converted
        # The same float32 operations in the same order; the runtime may fuse them differently.
        before, after = run_once(proto, sides=sides), run_once(converted, sides=sides)
        same = all(np.allclose(before[name], after[name], rtol=1e-4, atol=1e-5) for name in before)
    except Exception as error:  # the converter's and the runtime's own errors
        raise InputError(f"{message} ({first_line(error)})") from error
    if not same:
        raise InputError(f"{message} (the converted graph computes something else)")
    return converted
