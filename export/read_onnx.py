"""Reads an ONNX file that nobody vouches for."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from radixrt.errors import InputError


def read_onnx(path: Path) -> ir.Model:
    """Reads an ONNX image classifier.

    Raises:
        InputError: the file is missing or is no ONNX model.
    """
    if not path.is_file():
        raise InputError(f"no ONNX file at {path}")
    try:
        return ir.load(path)
    except Exception as error:  # protobuf, onnx-ir and the file system each raise their own
        raise InputError(f"{path} is not a readable ONNX file") from error
