"""Where the error of an engine that exists comes from, where a graph of it names the original's layers."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from radixrt.engines.base import Array
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec
from radixrt.prepare import Prepared
from radixrt.validate.drift import drift
from radixrt.validate.schema import DriftRow

IMAGES = 8
# Better than this in every layer is FP32 against FP32: there is no error to locate.
EXACT_DB = 90.0


def locate(graph: Path, prepared: Prepared, batch: BatchSpec) -> tuple[list[DriftRow], list[str]]:
    """Runs a graph beside the original, layer by layer.

    Args:
        graph: a bundle's deploy graph, or an ONNX file that another tool made of the original.
        prepared: the original and its images.
        batch: the batch sizes that the graph takes.

    Returns:
        The rows, none where the two compute the same, and sentences on why there are none where that is not so.
    """
    size = batch.max
    try:
        batches = (found.images for found in prepared.test.batches(size, max(size, IMAGES)))
        rows = drift(prepared.graph, ir.load(graph), (images for images in batches if _takes(prepared, images, size)))
    except InputError as error:
        return [], [f"Where the error comes from was not located: {str(error).rstrip('.')}."]
    return (rows, []) if any(row.sqnr_db < EXACT_DB for row in rows) else ([], [])


def _takes(prepared: Prepared, images: Array, size: int) -> bool:
    shape = prepared.graph.graph.inputs[0].shape
    fixed = shape[0] if shape is not None and isinstance(shape[0], int) else size
    return len(images) == size == fixed
