"""What libraries found out about this device, kept between builds: files that can be made again at any time.

::

    <cache home>/devices/timing-*.cache            TensorRT's timings of kernels, by device and version
    <cache home>/devices/rtx-*.runtime-cache       what TensorRT for RTX specialised for this GPU, by plan
    <cache home>/devices/*.blob, ...               what OpenVINO compiled, by its own names
    <cache home>/plans/*.plan                      what the run.py of a bundle built on this device
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from radixrt.errors import InputError
from radixrt.files import cache_home, replace_file

_DEVICES, _PLANS = "devices", "plans"


@dataclass(frozen=True)
class CacheEntry:
    """Something kept: the result of a stage, or a file for this device.

    Attributes:
        key: the content address, or the file's name.
        stage: which stage made it.
        bytes: size of its files.
        created: when it was made, seconds since 1970.
        used: when it was last taken, as far as the file system keeps that, seconds since 1970.
        path: its folder, or the file.
    """

    key: str
    stage: str
    bytes: int
    created: float
    used: float
    path: Path


def device_cache() -> Path | None:
    """Where libraries keep what they found out about this device; None where that cannot be written."""
    folder = cache_home() / _DEVICES
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def read_kept(path: Path | None) -> bytes:
    """What an earlier build kept; nothing where there is none, or none that can be read."""
    if path is not None:
        with contextlib.suppress(OSError):
            return path.read_bytes()
    return b""


def keep(path: Path, data: bytes) -> None:
    """Keeps a file for the next build. A disk that does not take it is no reason to lose what was built."""
    with contextlib.suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data)


def device_files() -> tuple[CacheEntry, ...]:
    """Everything kept for this device, the longest unused first."""
    found = []
    for path in (path for name in (_DEVICES, _PLANS) for path in (cache_home() / name).rglob("*")):
        with contextlib.suppress(OSError):
            if path.is_file():
                status = path.stat()
                used = max(status.st_atime, status.st_mtime)
                found.append(CacheEntry(path.name, "device", status.st_size, status.st_mtime, used, path))
    return tuple(sorted(found, key=lambda file: (file.used, file.path)))


def prune_device_files(*, max_bytes: int | None = None, older_than_s: float | None = None) -> tuple[CacheEntry, ...]:
    """Removes the files that were not used for longest; see :func:`prune`. Who has read its file keeps working."""

    def remove(entry: CacheEntry) -> bool:
        with contextlib.suppress(OSError):
            entry.path.unlink()
        return not entry.path.exists()

    return prune(device_files(), remove, max_bytes=max_bytes, older_than_s=older_than_s)


def prune(
    entries: Sequence[CacheEntry],
    remove: Callable[[CacheEntry], bool],
    *,
    max_bytes: int | None,
    older_than_s: float | None,
) -> tuple[CacheEntry, ...]:
    """Removes entries until the limits hold.

    Args:
        entries: the longest unused first.
        remove: removes one, and says whether it is gone.
        max_bytes: remove until no more than this is left.
        older_than_s: remove what was not used for this many seconds.

    Returns:
        What was removed.
    """
    total, now, removed = sum(entry.bytes for entry in entries), time.time(), []
    for entry in entries:
        aged = older_than_s is not None and now - entry.used > older_than_s
        large = max_bytes is not None and total > max_bytes
        if (aged or large) and remove(entry):
            total -= entry.bytes
            removed.append(entry)
    return tuple(removed)
