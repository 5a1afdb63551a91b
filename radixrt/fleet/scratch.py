"""Folders that last as long as a piece of work. What a killed process left of its own, the next one removes.

They lie beside the machine's locks. Each is locked by its maker, and the kernel drops the lock when that dies, so what
was left is told apart from what is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from radixrt.engines.quiet import shared_folder


@contextlib.contextmanager
def scratch(name: str, root: Path | None = None) -> Iterator[Path]:
    """Gives a new folder that is removed at the end, after removing those whose makers are dead.

    Args:
        name: what it begins with.
        root: where it lies; by default where the machine's locks do.
    """
    root = root or shared_folder()
    # Held while a folder is made or removed: one without a lock is then nobody's.
    with _locked(root):
        for left in root.glob("*-*"):
            _remove_if_abandoned(left)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
        held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


@contextlib.contextmanager
def temporaries_in(folder: Path) -> Iterator[None]:
    """Has everything that this process and its children put into a temporary folder put below this one."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        if before is not None:
            os.environ["TMPDIR"] = before
        tempfile.tempdir = None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
