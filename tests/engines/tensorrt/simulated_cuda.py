"""Stand-ins for PyCUDA's driver module and cuda-python's, with "device" memory in bytearrays, to test calls' order.

They have only the calls that the session makes, with PyCUDA 2026.1's names and arguments, and are strict: one outside
a pushed context, a copy beyond a buffer, a use after free is an error.
"""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class _State:
    depth = 0
    allocated = 0
    addresses: dict[int, Allocation]
    copies = 0
    room = 1 << 30


STATE = _State()
STATE.addresses = {}


def _need_context() -> None:
    assert STATE.depth > 0, "a CUDA call outside the context"


class Context:
    @staticmethod
    def pop() -> None:
        _need_context()
        STATE.depth -= 1

    @staticmethod
    def synchronize() -> None:
        _need_context()

    def push(self) -> None:
        STATE.depth += 1


class Device:
    def __init__(self, index: int) -> None:
        assert index == 0

    def retain_primary_context(self) -> Context:
        return Context()


class Allocation:
    def __init__(self, size: int) -> None:
        self.memory: bytearray | None = bytearray(size)
        STATE.allocated += 1
        self.address = 0x1000 * STATE.allocated
        STATE.addresses[self.address] = self

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        _need_context()
        assert self.memory is not None, "freed twice"
        self.memory = None
        del STATE.addresses[self.address]


class Stream:
    handle = 77

    def __init__(self) -> None:
        _need_context()

    def synchronize(self) -> None:
        _need_context()


class Event:
    def __init__(self) -> None:
        _need_context()

    def record(self, stream: Stream) -> None:
        _need_context()

    def time_since(self, other: Event) -> float:
        return 0.25


class OutOfMemoryError(Exception):
    """``pycuda.driver.MemoryError``."""


def mem_alloc(size: int) -> Allocation:
    _need_context()
    if size > STATE.room - sum(len(a.memory or b"") for a in STATE.addresses.values()):
        raise OutOfMemoryError
    return Allocation(size)


def pagelocked_empty(shape: int, dtype: Any) -> np.ndarray[Any, Any]:
    _need_context()
    return np.zeros(shape, dtype)


def memcpy_htod_async(dest: Allocation, src: np.ndarray[Any, Any], stream: Stream) -> None:
    _need_context()
    assert dest.memory is not None
    assert src.nbytes <= len(dest.memory)
    dest.memory[: src.nbytes] = src.tobytes()
    STATE.copies += 1


def memcpy_dtoh_async(dest: np.ndarray[Any, Any], src: Allocation, stream: Stream) -> None:
    _need_context()
    assert src.memory is not None
    dest[...] = np.frombuffer(bytes(src.memory[: dest.nbytes]), dest.dtype).reshape(dest.shape)
    STATE.copies += 1


def memcpy_dtoh(dest: np.ndarray[Any, Any], src: int) -> None:
    memory = STATE.addresses[src].memory
    assert memory is not None
    assert dest.nbytes <= len(memory)
    memcpy_dtoh_async(dest.reshape(-1), STATE.addresses[src], Stream())


def install(monkeypatch: Any) -> _State:
    """Puts the stand-in where ``pycuda.driver`` is imported from."""
    driver = ModuleType("pycuda.driver")
    for name in ("Context", "Device", "Event", "Stream", "mem_alloc", "pagelocked_empty"):
        setattr(driver, name, globals()[name])
    driver.init = lambda: None  # type: ignore[attr-defined]
    driver.MemoryError = OutOfMemoryError  # type: ignore[attr-defined]
    driver.memcpy_htod_async = memcpy_htod_async  # type: ignore[attr-defined]
    driver.memcpy_dtoh = memcpy_dtoh  # type: ignore[attr-defined]
    driver.memcpy_dtoh_async = memcpy_dtoh_async  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    STATE.depth, STATE.copies, STATE.room = 0, 0, 1 << 30
    STATE.addresses.clear()
    return STATE


class CudaPythonApi(ModuleType):
    """``cuda.bindings.driver``: each call returns its status and its results. Host memory is real."""

    CUresult = SimpleNamespace(CUDA_ERROR_OUT_OF_MEMORY=2)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76
    )

    def __init__(self) -> None:
        super().__init__("cuda.bindings.driver")
        self.host: dict[int, Any] = {}
        self.retained = 0
        self.live: set[str] = set()

    def cuInit(self, flags: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cuDeviceGet(self, index: int) -> tuple[int, int]:  # noqa: N802
        return (0, index) if index == 0 else (101, 0)

    def cuDeviceGetName(self, length: int, device: int) -> tuple[int, bytes]:  # noqa: N802
        return 0, b"Orin".ljust(length, b"\0")

    def cuDeviceGetAttribute(self, kind: int, device: int) -> tuple[int, int]:  # noqa: N802
        return 0, {75: 8, 76: 7}[kind]

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, str]:  # noqa: N802
        self.retained += 1
        return 0, "primary"

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[int]:  # noqa: N802
        self.retained -= 1
        return (0,)

    def cuCtxGetCurrent(self) -> tuple[int, str]:  # noqa: N802
        _need_context()
        return 0, "primary"

    def cuCtxPushCurrent(self, context: str) -> tuple[int]:  # noqa: N802
        if not self.retained:
            return (201,)
        STATE.depth += 1
        return (0,)

    def cuCtxPopCurrent(self) -> tuple[int, str]:  # noqa: N802
        Context.pop()
        return 0, "primary"

    def cuCtxSynchronize(self) -> tuple[int]:  # noqa: N802
        _need_context()
        return (0,)

    def cuStreamCreate(self, flags: int) -> tuple[int, int]:  # noqa: N802
        _need_context()
        return 0, Stream.handle

    def cuStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        _need_context()
        return (0,)

    def cuStreamDestroy(self, stream: int) -> tuple[int]:  # noqa: N802
        _need_context()
        return (0,)

    def cuEventCreate(self, flags: int) -> tuple[int, int]:  # noqa: N802
        _need_context()
        return 0, 5

    def cuEventRecord(self, event: int, stream: int) -> tuple[int]:  # noqa: N802
        _need_context()
        assert (event, stream) == (5, Stream.handle)
        return (0,)

    def cuEventDestroy(self, event: int) -> tuple[int]:  # noqa: N802
        _need_context()
        return (0,)

    def cuEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:  # noqa: N802
        return 0, 0.25

    def cuMemAlloc(self, size: int) -> tuple[int, int]:  # noqa: N802
        try:
            return 0, int(mem_alloc(size))
        except OutOfMemoryError:
            return 2, 0

    def cuMemFree(self, pointer: int) -> tuple[int]:  # noqa: N802
        STATE.addresses[pointer].free()
        return (0,)

    def cuMemAllocHost(self, size: int) -> tuple[int, int]:  # noqa: N802
        _need_context()
        memory = ctypes.create_string_buffer(size)
        self.host[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cuMemFreeHost(self, address: int) -> tuple[int]:  # noqa: N802
        _need_context()
        del self.host[address]
        return (0,)

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> tuple[int]:  # noqa: N802
        array = np.frombuffer(ctypes.string_at(source, size), np.uint8)
        memcpy_htod_async(STATE.addresses[target], array, Stream())
        return (0,)

    def cuMemcpyDtoHAsync(self, target: int, source: int, size: int, stream: int) -> tuple[int]:  # noqa: N802
        found = np.empty(size, np.uint8)
        memcpy_dtoh_async(found, STATE.addresses[source], Stream())
        ctypes.memmove(target, found.ctypes.data, size)
        return (0,)

    def cuMemcpyDtoH(self, target: int, source: int, size: int) -> tuple[int]:  # noqa: N802
        return self.cuMemcpyDtoHAsync(target, source, size, Stream.handle)


def install_cuda_python(monkeypatch: Any) -> _State:
    """Puts the stand-in where cuda-python is imported from, on a machine without PyCUDA."""
    state = install(monkeypatch)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", CudaPythonApi())
    return state
