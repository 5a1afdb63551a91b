"""Writes a graph to disk in one step: a reader sees the old file or the new one, never a part of either."""

from __future__ import annotations

import uuid
from pathlib import Path

import onnx_ir as ir

from radixrt.files import fsync, replacing

PROTOBUF_LIMIT = (1 << 31) - 1
"""Bytes of one protobuf message, and so of one ONNX file without its data files."""

WEIGHTS_LIMIT = (1 << 31) - (1 << 26)
"""Bytes of weights that one ONNX file can hold: what protobuf allows, less generous room for the graph itself."""


def write_onnx(model: ir.Model, path: Path, *, limit: int = WEIGHTS_LIMIT) -> None:
    """Writes ``model`` to ``path``.

    Args:
        model: the graph, which stays as it is.
        path: the file. Its folder must be there.
        limit: bytes of weights from which they go to a file beside it, ``<name>.<token>.data``. The token is new each
            time, so that the old graph keeps its own weights until the new one has taken its place.

    Raises:
        InputError: the folder cannot be written to.
    """
    path = Path(path)
    data = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.data") if weight_bytes(model) >= limit else None
    try:
        with replacing(path) as temporary:
            ir.save(model, temporary, external_data=None if data is None else data.name)
            if data is not None:
                fsync(data)
    except BaseException:
        if data is not None:
            data.unlink(missing_ok=True)
        raise


def weight_bytes(model: ir.Model) -> int:
    """The bytes of the graph's weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
