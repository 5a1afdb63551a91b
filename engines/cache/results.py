"""What a stage made, kept under the hash of everything it was made from, so that the next build does only what is new.

A key is the SHA-256 of the stage's name, the hashes of its inputs, its options and the versions of the libraries that
did the work: whatever changes the result changes the key, and nothing is ever invalidated. An entry is a folder::

    <root>/<2 hex>/<key>/entry.json    stage, time, SHA-256 of each file
    <root>/<2 hex>/<key>/files/...     what the stage wrote
    <root>/<2 hex>/<key>.unfinished    how far a stage came that can be continued
    <root>/<2 hex>/<key>.making        held by whoever makes it

It appears by a rename, and its hashes are checked at every read: an entry that was cut short or damaged is dropped and
made again, never used. That is also why nothing is flushed to the disk here. A lock on the folder, held while a process
uses the entry, keeps pruning away from it.

The default root is ``$XDG_CACHE_HOME/radixrt/stages``, or ``~/.cache/radixrt/stages``: it serves every project of a
user, and a checkout stays free of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from radixrt.engines.bundle.manifest import FileEntry
from radixrt.engines.cache.device import CacheEntry, prune
from radixrt.engines.quiet import away
from radixrt.files import cache_home, concerns, lock_file, sha256_of, translate_disk_errors

_ENTRY = "entry.json"
_FILES = "files"
_UNFINISHED = ".unfinished"
_MAKING = ".making"
_GRACE_S = 60
_FORGOTTEN_S = 7 * 86400


class _Record(BaseModel):
    """``entry.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    key: str
    stage: str
    created: float
    files: tuple[FileEntry, ...]


def default_root() -> Path:
    """Where results are kept when the user names no folder."""
    return cache_home() / "stages"


def stage_key(stage: str, *, inputs: Mapping[str, str], options: object, versions: Mapping[str, str]) -> str:
    """The address of a stage's result.

    Args:
        stage: the stage's name.
        inputs: SHA-256 of each input, by role.
        options: a dataclass, a pydantic model, or plain values: everything the user chose that this stage looks at.
        versions: of each library whose change could change the result.

    Returns:
        64 hex digits.

    Raises:
        TypeError: an option has no canonical form, so equal options could not be told from different ones.
    """
    content = {"stage": stage, "inputs": dict(inputs), "options": options, "versions": dict(versions)}
    text = json.dumps(content, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"an option of type {type(value).__name__} has no canonical form")


class StageCache:
    """Results of stages by content. A context manager: entries taken from it are safe from pruning until it closes.

    Args:
        root: where entries are kept; made when the first one is.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        self._held: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the entries taken."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    def get(self, key: str) -> Path | None:
        """The folder with what a stage wrote, or None where it must be done (again)."""
        folder = self._folder(key)
        if not self._hold(key, folder):
            return None
        record = _read_record(folder)
        if record is None or record.key != key or not _intact(folder / _FILES, record):
            self._drop(key, folder)
            return None
        with contextlib.suppress(OSError):  # a cache on a read-only disk still serves
            os.utime(folder / _ENTRY)
        return folder / _FILES

    def put(self, key: str, stage: str, write: Callable[[Path], None]) -> Path:
        """Keeps a result.

        Args:
            key: from :func:`stage_key`.
            stage: the stage's name, for the listing.
            write: writes the result's files into the empty folder that it is given; when it raises, nothing is kept.

        Returns:
            The folder with the files.

        Raises:
            InputError: the disk is full or not writable.
        """
        folder = self._folder(key)
        temporary = self.root / f".tmp-{secrets.token_hex(8)}"
        with translate_disk_errors(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            temporary.mkdir()
        # The lock tells the folder from one that a killed build left, and moves with it to its final name.
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                (temporary / _FILES).mkdir()
                write(temporary / _FILES)
            except OSError as error:
                if not concerns(error, temporary):
                    raise
                with translate_disk_errors(self.root):
                    raise
            with translate_disk_errors(self.root):
                record = _Record(key=key, stage=stage, created=time.time(), files=_list(temporary / _FILES))
                (temporary / _ENTRY).write_text(record.model_dump_json(indent=1) + "\n")
                while self.get(key) is None:
                    if _rename_new(temporary, folder):
                        fcntl.flock(descriptor, fcntl.LOCK_SH)
                        self._held[key] = os.dup(descriptor)
                        break
                    time.sleep(0.02)  # pruning is taking the old entry away at this moment
        finally:
            os.close(descriptor)
            shutil.rmtree(temporary, ignore_errors=True)
        return folder / _FILES

    @contextlib.contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Held while a result is looked for and made, so that two builds do not make the same one at once.

        It is no promise: where the file system has no locks, both make it, and both results are good.
        """
        folder = self._folder(key)
        with translate_disk_errors(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
        path = folder.with_name(f"{key}{_MAKING}")
        descriptor = _locked(path)
        try:
            yield
        finally:
            if descriptor is not None:
                # Removed while still held, so that nobody locks a file that is about to vanish without noticing.
                with contextlib.suppress(OSError):
                    path.unlink()
                os.close(descriptor)

    def unfinished(self, key: str) -> Path:
        """A file in which a long stage keeps what it has done so far, for a run that was interrupted to continue.

        The stage writes it, whole or not at all, and removes it when it is done; pruning everything removes it
        too, and any pruning does after a week.
        """
        folder = self._folder(key)
        with translate_disk_errors(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
        return folder.with_name(f"{key}{_UNFINISHED}")

    def entries(self) -> tuple[CacheEntry, ...]:
        """Everything kept, the longest unused first."""
        found = []
        for path in self.root.glob("[0-9a-f][0-9a-f]/*"):
            record = _read_record(path)
            if record is not None:
                with contextlib.suppress(FileNotFoundError):
                    used = (path / _ENTRY).stat().st_mtime
                    size = sum(entry.bytes for entry in record.files)
                    found.append(CacheEntry(record.key, record.stage, size, record.created, used, path))
        return tuple(sorted(found, key=lambda entry: (entry.used, entry.key)))

    def prune(self, *, max_bytes: int | None = None, older_than_s: float | None = None) -> tuple[CacheEntry, ...]:
        """Removes what was not used for longest; entries in use stay.

        Args:
            max_bytes: remove until no more than this is left.
            older_than_s: remove what was not used for this many seconds.

        Returns:
            What was removed.
        """
        self._remove_abandoned()
        everything = 0 in (max_bytes, older_than_s)
        self._remove_unfinished(0 if everything else min(_FORGOTTEN_S, older_than_s or _FORGOTTEN_S))

        def remove(entry: CacheEntry) -> bool:
            return entry.key not in self._held and _remove_unused(entry.path)

        return prune(self.entries(), remove, max_bytes=max_bytes, older_than_s=older_than_s)

    def _remove_unfinished(self, older_than_s: float) -> None:
        for path in self.root.glob(f"[0-9a-f][0-9a-f]/*{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    def _hold(self, key: str, folder: Path) -> bool:
        """Takes a shared lock on an entry, which lasts until the cache is closed."""
        if key in self._held:
            return folder.exists()
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._held[key] = descriptor
        return True

    def _drop(self, key: str, folder: Path) -> None:
        """Removes a damaged entry; a rename first, so that nobody meets half of it."""
        descriptor = self._held.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # gone meanwhile, or a cache on a read-only disk
            doomed = self.root / f".tmp-{secrets.token_hex(8)}"
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _remove_abandoned(self) -> None:
        """Removes what killed builds were writing; living ones hold a lock on it."""
        for path in self.root.glob(".tmp-*"):
            with contextlib.suppress(FileNotFoundError):
                # A build makes its folder first and locks it a moment later.
                if time.time() - path.stat().st_mtime > _GRACE_S:
                    _remove_unused(path)


def _locked(path: Path) -> int | None:
    """Makes a file and locks it, waiting for whoever holds it; None where that cannot be."""
    with contextlib.suppress(OSError):
        try:
            return lock_file(path)
        except BlockingIOError:
            with away():
                return lock_file(path, wait=True)
    return None


def _remove_unused(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _rename_new(source: Path, target: Path) -> bool:
    """Renames a folder to a name that must be free."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            return False
        raise
    return True


def _read_record(folder: Path) -> _Record | None:
    try:
        return _Record.model_validate_json((folder / _ENTRY).read_bytes())
    except (OSError, ValidationError):
        return None


def _list(folder: Path) -> tuple[FileEntry, ...]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        FileEntry(name=path.relative_to(folder).as_posix(), bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in paths
    )


def _intact(folder: Path, record: _Record) -> bool:
    try:
        return _list(folder) == record.files
    except (OSError, ValidationError):
        return False
