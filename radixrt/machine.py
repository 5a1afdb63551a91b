"""Which machine this is, in words that tell two apart: what a time is valid for."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

_INT8_AND_BF16 = ("avx2", "avx512bw", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


@cache
def processor() -> str:
    """The processor's name; the architecture where the system tells no name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> tuple[str, ...]:
    """Those of an x86 processor's instruction sets that INT8 and BF16 kernels differ by, as Linux calls them."""
    flags = _cpuinfo("flags").split()
    return tuple(name for name in _INT8_AND_BF16 if name in flags)


@cache
def _cpuinfo(field: str) -> str:
    """A field of the first processor, empty where the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def cores() -> int:
    """How many logical processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """The processor and how much of it there is."""
    return f"{processor()}, {cores()} cores"
