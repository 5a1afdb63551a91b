"""The CUDA driver in PyCUDA's words: PyCUDA where it is, else NVIDIA's cuda-python, whose wheels need no compiler.

Only what running a plan takes: memory, copies, a stream, events, and the device's primary context, in which PyTorch
works too. The file imports nothing of the project and keeps to Python 3.8, so that it travels with a bundle as it
stands. Not executed on a GPU where it was written: there is none.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

# cuda-python 12.6 and later, and earlier (the last for Python 3.8).
_CUDA_PYTHON = ("cuda.bindings.driver", "cuda.cuda")


def load_driver() -> Any:
    """Returns ``pycuda.driver``, or what stands in for it.

    Raises:
        ImportError: neither package can be imported; the message says what to install.
    """
    try:
        return importlib.import_module("pycuda.driver")
    except Exception as error:  # PyCUDA fails in many ways where the toolkit and the driver disagree
        reason = f"pycuda: {type(error).__name__}"
    for name in _CUDA_PYTHON:
        with contextlib.suppress(ImportError):
            return CudaPython(importlib.import_module(name))
    raise ImportError(f"neither pycuda nor cuda-python can be imported ({reason})")


class Error(Exception):
    """The driver refused a call."""


class OutOfMemoryError(Error):
    """The GPU's memory is full."""


class CudaPython:
    """PyCUDA's driver module, as far as it is used here, over cuda-python.

    Args:
        api: the module with the driver's calls, each of which returns its status and then its results.
    """

    Error = Error
    MemoryError = OutOfMemoryError

    def __init__(self, api: Any) -> None:
        self.api = api
        self.Context = SimpleNamespace(
            pop=lambda: self.call("cuCtxPopCurrent"), synchronize=lambda: self.call("cuCtxSynchronize")
        )

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls the driver.

        Raises:
            OutOfMemoryError: there is no more memory.
            Error: it refused for another reason.
        """
        try:
            status, *results = getattr(self.api, name)(*arguments)
        except RuntimeError as error:  # the driver's library is not on this machine
            raise Error(str(error)) from error
        if int(status) != 0:
            refused = OutOfMemoryError if status == self.api.CUresult.CUDA_ERROR_OUT_OF_MEMORY else Error
            raise refused(f"{name}: {getattr(status, 'name', status)}")
        return results[0] if results else None

    def init(self) -> None:
        self.call("cuInit", 0)

    def get_driver_version(self) -> int:
        return int(self.call("cuDriverGetVersion"))

    def Device(self, index: int) -> _Device:  # noqa: N802 - PyCUDA's name
        return _Device(self, index)

    def Stream(self) -> _Stream:  # noqa: N802 - PyCUDA's name
        return _Stream(self)

    def Event(self) -> _Event:  # noqa: N802 - PyCUDA's name
        return _Event(self)

    def mem_alloc(self, size: int) -> _Allocation:
        return _Allocation(self, size)

    def pagelocked_empty(self, shape: Any, dtype: Any) -> Any:
        """An array in memory that the GPU copies from and to by itself; freed with its last view."""
        dtype, count = np.dtype(dtype), math.prod(np.atleast_1d(shape).tolist())
        size = max(1, count * dtype.itemsize)
        address = int(self.call("cuMemAllocHost", size))
        memory = (ctypes.c_byte * size).from_address(address)
        _free_with(memory, self, "cuMemFreeHost", address)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def memcpy_htod_async(self, target: _Allocation, source: Any, stream: _Stream) -> None:
        self.call("cuMemcpyHtoDAsync", target.pointer, source.ctypes.data, source.nbytes, stream.stream)

    def memcpy_dtoh_async(self, target: Any, source: _Allocation, stream: _Stream) -> None:
        self.call("cuMemcpyDtoHAsync", target.ctypes.data, source.pointer, target.nbytes, stream.stream)

    def memcpy_dtoh(self, target: Any, source: int) -> None:
        self.call("cuMemcpyDtoH", target.ctypes.data, source, target.nbytes)


def _free_with(owner: Any, cuda: CudaPython, name: str, handle: Any) -> Any:
    """Frees a handle when its owner goes, in the context that is current now; returns what frees it before."""
    context = cuda.call("cuCtxGetCurrent")

    def free() -> None:
        # Statuses are not looked at: a context that is gone has freed all that was in it.
        if int(cuda.api.cuCtxPushCurrent(context)[0]) == 0:
            getattr(cuda.api, name)(handle)
            cuda.api.cuCtxPopCurrent()

    # At the end of the process the driver frees everything, and may be gone first.
    finalizer = weakref.finalize(owner, free)
    finalizer.atexit = False
    return finalizer


class _Device:
    def __init__(self, cuda: CudaPython, index: int) -> None:
        self._cuda, self._device = cuda, cuda.call("cuDeviceGet", index)

    def name(self) -> str:
        return str(self._cuda.call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode())

    def compute_capability(self) -> tuple[int, int]:
        kinds = self._cuda.api.CUdevice_attribute
        major = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        first, second = (int(self._cuda.call("cuDeviceGetAttribute", kind, self._device)) for kind in (major, minor))
        return first, second

    def retain_primary_context(self) -> _Context:
        return _Context(self._cuda, self._device)


class _Context:
    def __init__(self, cuda: CudaPython, device: Any) -> None:
        self._cuda, self._context = cuda, cuda.call("cuDevicePrimaryCtxRetain", device)
        weakref.finalize(self, cuda.api.cuDevicePrimaryCtxRelease, device).atexit = False

    def push(self) -> None:
        self._cuda.call("cuCtxPushCurrent", self._context)


class _Stream:
    def __init__(self, cuda: CudaPython) -> None:
        self._cuda, self.stream = cuda, cuda.call("cuStreamCreate", 0)
        _free_with(self, cuda, "cuStreamDestroy", self.stream)

    @property
    def handle(self) -> int:
        return int(self.stream)

    def synchronize(self) -> None:
        self._cuda.call("cuStreamSynchronize", self.stream)


class _Event:
    def __init__(self, cuda: CudaPython) -> None:
        self._cuda, self.event = cuda, cuda.call("cuEventCreate", 0)
        _free_with(self, cuda, "cuEventDestroy", self.event)

    def record(self, stream: _Stream) -> None:
        self._cuda.call("cuEventRecord", self.event, stream.stream)

    def time_since(self, other: _Event) -> float:
        """Milliseconds from the other event to this one."""
        return float(self._cuda.call("cuEventElapsedTime", other.event, self.event))


class _Allocation:
    """Device memory; freed with its owner, or before."""

    def __init__(self, cuda: CudaPython, size: int) -> None:
        self._cuda, self.pointer = cuda, cuda.call("cuMemAlloc", size)
        self.free = _free_with(self, cuda, "cuMemFree", self.pointer)

    def __int__(self) -> int:
        return int(self.pointer)
