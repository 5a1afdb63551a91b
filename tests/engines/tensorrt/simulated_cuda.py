"""A stand-in for PyCUDA's driver module that keeps "device" memory in bytearrays, for testing the order of calls.

It has only the calls that the session makes, with PyCUDA 2026.1's names and arguments, and it is strict: a call outside
a pushed context, a copy beyond a buffer, a use after free is an error.
"""

from __future__ import annotations

import sys
from types import ModuleType
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
