"""A folder that is written whole or not at all.

The new folder grows beside the old one as ``.<name>.tmp-<hex>``, is flushed to the disk, and trades places with it in
one system call (``renameat2`` with ``RENAME_EXCHANGE``). Where the file system has no such call, two renames do it, and
an interruption between them is mended by whoever opens the folder next. An exclusive lock on ``.<name>.lock`` keeps a
second writer out; the kernel drops it when its holder dies, so what a killed build left behind is told apart from what
a living one is writing.

See ``docs/decisions/atomic-bundle.md``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from radixrt.errors import InputError
from radixrt.files import concerns, fsync, lock_file, translate_disk_errors

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# How long a reader's lock is waited for: it is held for a few system calls, by a process that may wait its turn.
_READER_S = 2.0
# File systems without an exchange answer with one of these.
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EXDEV}


def exchange(first: Path, second: Path) -> bool:
    """Swaps two names on one file system in a single step.

    Returns:
        False where the C library or the file system cannot; nothing has changed then.

    Raises:
        OSError: it failed for another reason.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(first))


def fsync_tree(folder: Path) -> None:
    """Flushes every file below a folder, then the folders that name them."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync(Path(root, name))
        fsync(Path(root))


def _leftovers(output: Path, kind: str) -> list[Path]:
    """The folders an earlier writer of ``output`` left beside it; ``kind`` is ``tmp`` or ``old``."""
    pattern = re.compile(re.escape(f".{output.name}.{kind}-") + "[0-9a-f]{8}")
    with contextlib.suppress(FileNotFoundError), os.scandir(output.parent) as entries:
        return [Path(e.path) for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
    return []


def lock_path(output: Path) -> Path:
    """The lock that the writers of ``output`` share."""
    return output.with_name(f".{output.name}.lock")


@contextlib.contextmanager
def exclusive(output: Path, *, reader: bool = False) -> Iterator[None]:
    """Holds the lock of ``output``; the file is removed on the way out.

    Args:
        output: the folder to be written; its parent exists.
        reader: it is held for a moment, to look at ``output`` while nobody writes it. A writer waits for a reader.

    Raises:
        InputError: a writer holds it.
    """
    path = lock_path(output)
    deadline = time.monotonic() + _READER_S
    while True:
        try:
            descriptor = lock_file(path)
            break
        except BlockingIOError as error:
            holder = ""
            with contextlib.suppress(FileNotFoundError):
                holder = path.read_bytes()[:32].decode("ascii", "replace").strip()
            # A writer leaves its number there at once; a reader leaves none and is gone in a moment.
            if not holder and time.monotonic() < deadline:
                time.sleep(0.001)
                continue
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise InputError(
                f"{output} is being written by {who}: wait until it is done, or choose another output"
            ) from error
    try:
        os.ftruncate(descriptor, 0)
        if not reader:
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        # Removed while still held, so nobody can lock a file that is about to vanish without noticing.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def restore(output: Path) -> None:
    """Puts back the old folder when a swap was interrupted between its two renames; call with the lock held."""
    if not os.path.lexists(output):
        for old in _leftovers(output, "old"):
            old.rename(output)
            fsync(output.parent)
            return


def find_or_restore(output: Path) -> bool | None:
    """For a reader that found no folder: looks while no writer is between the two renames of a swap.

    Two looks without the lock prove nothing: a gap may be over before the second, and the next one may have begun.
    An interrupted swap whose writer is dead is mended.

    Returns:
        True where the folder is there; False where there is none; None where a writer is at work, so nobody can tell.
    """
    try:
        with exclusive(output, reader=True):
            restore(output)
            return os.path.lexists(output)
    except InputError:
        return None
    except OSError:  # no lock can be had here, as on a disk that is mounted read-only
        return os.path.lexists(output)


class AtomicFolder:
    """Writes ``folder``, which becomes ``output`` on :meth:`commit` and vanishes otherwise. A context manager.

    Args:
        output: what is made or replaced; its parents are created.
    """

    def __init__(self, output: Path) -> None:
        # A link to a folder is replaced where it points, not turned into a folder.
        self.output = output.absolute().resolve()
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder being written."""
        if self._folder is None:
            raise RuntimeError("the folder is written inside a with block, and only until commit")
        return self._folder

    def __enter__(self) -> Self:
        with translate_disk_errors(self.output), contextlib.ExitStack() as stack:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(self.output))
            restore(self.output)
            self.clean()
            folder = self.output.with_name(f".{self.output.name}.tmp-{secrets.token_hex(4)}")
            folder.mkdir()
            self._folder = folder
            self._stack = stack.pop_all()
        return self

    def clean(self) -> None:
        """Removes what writers that died left behind; the lock is held."""
        for folder in _leftovers(self.output, "tmp") + _leftovers(self.output, "old"):
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self) -> None:
        """Flushes the folder to the disk and puts it in place of the old one."""
        folder = self.folder
        with translate_disk_errors(self.output):
            fsync_tree(folder)
            if not os.path.lexists(self.output):
                folder.rename(self.output)
            elif not exchange(folder, self.output):
                old = folder.with_name(folder.name.replace(".tmp-", ".old-"))
                self.output.rename(old)
                folder.rename(self.output)
            fsync(self.output.parent)
        self._folder = None
        self.clean()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            folder, self._folder = self._folder, None
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, OSError) and concerns(error, folder):
                    with translate_disk_errors(self.output):
                        raise error
