"""Calibration's reference runtime: a float or Q/DQ graph on onnxruntime's CPU provider, inner tensors as outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.errors import InputError, first_line

Array = NDArray[Any]

_PROTOBUF_LIMIT = 1 << 31


class Graph:
    """An open graph. ``static_batch`` is its batch size where that is fixed."""

    def __init__(self, session: Any) -> None:
        self._session = session
        source = session.get_inputs()[0]
        self.input_name: str = source.name
        first = source.shape[0] if source.shape else None
        self.static_batch: int | None = first if isinstance(first, int) else None
        self._shape: list[Any] = source.shape

    def run(self, images: Array, outputs: Sequence[str] | None = None) -> list[Array]:
        """Runs one batch.

        Args:
            images: float32, shape (N, C, H, W).
            outputs: which tensors to return; the graph's own outputs where absent.

        Raises:
            InputError: the images do not have the shape that the graph takes.
        """
        wanted = self._shape[1:]
        if images.ndim != len(self._shape) or any(
            isinstance(w, int) and w != g for w, g in zip(wanted, images.shape[1:], strict=True)
        ):
            raise InputError(f"images of shape {images.shape} do not fit the graph's input {self._shape}: resize them")
        if outputs is not None and not outputs:
            return []
        return list(self._session.run(list(outputs) if outputs is not None else None, {self.input_name: images}))


def open_graph(model: ir.Model, extra_outputs: Sequence[str] = (), *, threads: int = 0, optimize: bool = True) -> Graph:
    """Opens a graph with more of its tensors as outputs.

    Args:
        model: not changed.
        extra_outputs: names of tensors to make outputs as well.
        threads: 0 lets the runtime choose.
        optimize: False computes every node as it is written, which is the reference for Q/DQ graphs.

    Raises:
        InputError: onnxruntime refuses the graph.
    """
    import onnxruntime as ort

    proto = ir.to_proto(model)
    present = {o.name for o in proto.graph.output}
    known = {v.name: v for v in proto.graph.value_info}
    for name in extra_outputs:
        if name not in present:
            proto.graph.output.add().CopyFrom(known[name])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Calibration reads one batch after another: a growing arena would only raise the peak.
    options.enable_mem_pattern = False
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise InputError(f"onnxruntime cannot run the graph: {first_line(error)}") from error
    return Graph(session)


def logits(graph: Graph, images: Array) -> NDArray[np.float32]:
    """The first output for images of any number, shape (N, classes)."""
    size = graph.static_batch or 1
    rows = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        fed = part if len(part) == size else np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        rows.append(graph.run(fed)[0][: len(part)])
    return np.concatenate(rows)
