"""CUDA graphs: the work of one run, recorded once and launched as a whole.

PyCUDA has no stream capture, so this takes NVIDIA's own ``cuda-bindings`` (which PyTorch's CUDA builds bring) for
those six driver calls and nothing else. Where it is missing, each run enqueues its work piece by piece, which costs
the processor some tens of microseconds more. The file imports nothing of the project and keeps to Python 3.8, so that
it travels with a bundle as it stands.

Not executed where it was written: there is no GPU there.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

# cuda-python 12.6 and later, and earlier (the last for Python 3.8).
_CUDA_PYTHON = ("cuda.bindings.driver", "cuda.cuda")


class GraphError(Exception):
    """The driver refuses to record or to launch."""


def find_driver() -> Any:
    """Returns the module of driver calls, or None where it is not installed."""
    for name in _CUDA_PYTHON:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None


class CudaGraph:
    """Work recorded from a stream. It holds for the shapes and buffers that it was recorded with.

    Args:
        driver: what :func:`find_driver` returned.
        stream: the stream's handle.
        work: enqueues the work on that stream, and waits for nothing.

    Raises:
        GraphError: the driver refuses; the stream is usable again.
    """

    def __init__(self, driver: Any, stream: int, work: Callable[[], None]) -> None:
        self._driver = driver
        self._stream = driver.CUstream(stream)
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            work()
        finally:
            # The capture must be ended even when the work failed, or the stream stays unusable.
            graph = self._call(driver.cuStreamEndCapture(self._stream))
        # In cuda-python 11, which JetPack 5 takes, cuGraphInstantiate wants a log buffer; 13 has it alone.
        instantiate = getattr(driver, "cuGraphInstantiateWithFlags", None) or driver.cuGraphInstantiate
        try:
            self._executable = self._call(instantiate(graph, 0))
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Enqueues the recorded work."""
        self._call(self._driver.cuGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        """Frees the graph."""
        self._driver.cuGraphExecDestroy(self._executable)

    def _call(self, answer: tuple[Any, ...]) -> Any:
        status, *result = answer
        if int(status) != 0:
            raise GraphError(f"the CUDA driver refused a graph ({status}): open the engine without graphs")
        return result[0] if result else None
