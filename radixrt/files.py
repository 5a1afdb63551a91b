"""Files on a disk that may be full or closed: written whole or not at all, hashed, and refused in one sentence."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from radixrt.errors import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
# Network file systems without locks answer with one of these.
_REFUSED |= {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def cache_home() -> Path:
    """This project's folder in the user's cache: ``$XDG_CACHE_HOME``, which counts only where it is absolute."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "radixrt"


def sha256_of(path: Path) -> str:
    """Hashes a file in pieces, so that a large engine does not fill the memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def fsync(path: Path) -> None:
    """Flushes one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, folder: Path | None = None) -> Iterator[Path]:
    """Gives an empty file to write, and puts it in the place of ``path`` once it is on the disk.

    It lies beside ``path``, or in ``folder`` of the same disk where nothing may lie beside it.

    A reader sees the old file or the new one, never a part of either, whoever else writes it meanwhile.

    Raises:
        InputError: the disk is full or refuses; the old file is as it was.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder or path.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        fsync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        InputError: as :func:`replacing` says.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def make_room(path: Path | None) -> None:
    """Makes the folder of a file that is written at the end, so that minutes of work do not end at a closed door.

    Raises:
        InputError: there can be no such file.
    """
    if path is None:
        return
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: name a file in a folder that is writable")


def unwritable(where: Path, error: OSError) -> InputError:
    """The sentence on a file or folder that cannot be written."""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return InputError(f"{where} cannot be written ({reason}): make room there or choose another output")


@contextlib.contextmanager
def translate_disk_errors(where: Path) -> Iterator[None]:
    """Turns a disk that is full, or does not take the name, into one sentence.

    Raises:
        InputError: the block failed for one of these reasons.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL | _REFUSED:
            raise
        raise unwritable(where, error) from error


def concerns(error: OSError, folder: Path) -> bool:
    """Says whether an error is about the folder being written, rather than about what was read for it."""
    named = isinstance(error.filename, (str, Path)) and Path(error.filename).is_relative_to(folder)
    return named or error.errno in _FULL


def lock_file(path: Path, *, wait: bool = False) -> int:
    """Makes a file and locks it; whoever holds it may remove it before closing the descriptor, which is given.

    Args:
        path: the file.
        wait: for whoever holds it.

    Raises:
        BlockingIOError: somebody holds it, and is not waited for.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the file while we waited for it: then this lock guards nothing.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
