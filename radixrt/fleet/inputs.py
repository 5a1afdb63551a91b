"""What a row reads from the disk, and how it gets to a machine that does not have it: once, by its content.

A machine keeps what it was sent under its SHA-256 in ``<cache home>/inputs``. What a machine lacks is read piece by
piece from the one where the sweep was started.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from radixrt.calibration.data.sets.coco import read_coco
from radixrt.errors import InputError
from radixrt.fields import words
from radixrt.files import cache_home, lock_file, sha256_of, translate_disk_errors
from radixrt.fleet.scratch import scratch
from radixrt.options import CompileOptions
from radixrt.recipe import CODE, READ, named

PIECE = 16 << 20
"""Bytes that are sent at once."""
SENT = tuple(option for option in (*CODE, *READ) if option != "sign_key")
"""Options that name what a build reads. A private key is no such thing: bundles are signed where the sweep runs."""


@dataclass(frozen=True)
class Input:
    """A file or folder that an option names.

    Attributes:
        option: the first one that names it.
        path: where it lies, from the root.
        sha256: of its content, names included.
        folder: whether it is one.
        outside: a file that it names and that does not travel with it; empty where all do.
    """

    option: str
    path: str
    sha256: str
    folder: bool
    outside: str = ""


def inputs_of(options: CompileOptions, known: dict[str, Input]) -> tuple[Input, ...]:
    """The files and folders that a build reads; ``known`` holds those that were hashed already, by path.

    Raises:
        InputError: one is not there, or cannot be read.
    """
    found = []
    for option in SENT:
        for value in _values(option, getattr(options, option)):
            path = named(option, value, Path()).path
            if path is None:
                continue
            whole = str(path.absolute())
            if whole not in known:
                known[whole] = Input(option, whole, _sha256(option, path), path.is_dir(), _outside(Path(whole)))
            found.append(replace(known[whole], option=option))
    return tuple(found)


def _values(option: str, value: object) -> list[object]:
    """What an option names, one by one."""
    if isinstance(value, (list, tuple)):
        return [*value]
    return [*words(value)] if option == "against" and isinstance(value, str) else [value]


def _files(path: Path) -> list[Path]:
    """The files of an input: a file with what it refers to beside itself, or all below a folder."""
    if path.is_dir():
        # A data set may be made of links.
        below = (Path(folder, name) for folder, _, names in os.walk(path, followlinks=True) for name in names)
        return sorted(file for file in below if file.is_file())
    beside: dict[str, Callable[[], Iterable[Path]]] = {
        ".py": lambda: path.parent.glob("*.py"),
        ".onnx": lambda: path.parent.glob(f"{glob.escape(path.name)}*data"),
    }
    beside |= dict.fromkeys(NAMING, lambda: (path.parent / name for name in _names(path) if _travels(name)))
    # How images are prepared may stand beside a checkpoint.
    found = beside.get(path.suffix.lower(), lambda: [path.with_suffix(".json")])
    return [path, *sorted({file for file in found() if file.is_file()} - {path})]


def _names(path: Path) -> Iterator[Path]:
    """The images that a file of :data:`NAMING` names: from its own folder, or from the root."""
    if not path.is_dir() and (read := NAMING.get(path.suffix.lower())) is not None:
        yield from read(path)


def _listed(path: Path) -> Iterator[Path]:
    """The images that a CSV file names; the build says what is wrong with one that cannot be read."""
    with contextlib.suppress(UnicodeDecodeError, csv.Error), path.open(newline="", encoding="utf-8-sig") as stream:
        for row in csv.DictReader(stream, skipinitialspace=True):
            if name := (row.get("path") or "").strip():
                yield Path(name)


def _annotated(path: Path) -> Iterator[Path]:
    """The images of a JSON file of objects (COCO); any other JSON names none."""
    with contextlib.suppress(InputError):
        splits = read_coco(path)
        for entry in (*splits.calibration, *splits.test) if splits else ():
            below = entry.path.is_relative_to(path.parent)
            yield entry.path.relative_to(path.parent) if below else entry.path


NAMING: dict[str, Callable[[Path], Iterator[Path]]] = {".csv": _listed, ".json": _annotated}
"""The files of data that name others, by suffix."""


def _travels(name: Path) -> bool:
    """Whether a file that another one names can lie beside that at another place too."""
    return not name.is_absolute() and ".." not in name.parts


def _outside(path: Path) -> str:
    return next((str(path.parent / name) for name in _names(path) if not _travels(name)), "")


def _root(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _sha256(option: str, path: Path) -> str:
    if not path.exists():
        raise InputError(f"there is no {path}, which {option} names: name a file or folder that is there")
    digest = hashlib.sha256()
    try:
        for file in _files(path):
            name = file.relative_to(_root(path)).as_posix().encode("utf-8", "surrogateescape")
            digest.update(name + b"\0" + sha256_of(file).encode())
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}") from error
    return digest.hexdigest()


class Sender:
    """Reads files for machines that lack them: an actor on the machine where the sweep was started."""

    def __init__(self, inputs: tuple[Input, ...]) -> None:
        self._paths = {one.sha256: Path(one.path) for one in inputs}

    def files(self, sha256: str) -> list[str]:
        """The names of an input's files, from its own folder."""
        path = self._paths[sha256]
        return [file.relative_to(_root(path)).as_posix() for file in _files(path)]

    def piece(self, sha256: str, name: str, number: int) -> bytes:
        """The n-th piece of one of these files; empty after the last one."""
        with (_root(self._paths[sha256]) / name).open("rb") as stream:
            stream.seek(number * PIECE)
            return stream.read(PIECE)


def received(one: Input, files: Callable[[str], list[str]], piece: Callable[[str, str, int], bytes]) -> Path:
    """Where an input lies on this machine, which asks for it where it does not have it.

    Args:
        one: the input.
        files: gives the names of its files by its hash.
        piece: gives the n-th piece of one of them, see :meth:`Sender.piece`.

    Raises:
        InputError: what came is not what was hashed.
    """
    folder = cache_home() / "inputs" / one.sha256
    place = folder if one.folder else folder / Path(one.path).name
    with translate_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = lock_file(folder.with_suffix(".lock"), wait=True)
        try:
            if folder.exists():
                return place
            # What a worker that was killed here had received is removed by the next one.
            with scratch(".new", folder.parent) as room:
                content = room / "content"
                content.mkdir()
                for name in files(one.sha256):
                    file = content / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    with file.open("wb") as stream:
                        number = 0
                        while data := piece(one.sha256, name, number):
                            stream.write(data)
                            number += 1
                if _sha256(one.option, content if one.folder else content / place.name) != one.sha256:
                    raise InputError(f"{one.path} changed while it was sent: start the sweep again")
                content.rename(folder)
        finally:
            os.close(lock)
    return place


def moved(options: CompileOptions, inputs: tuple[Input, ...], find: Callable[[Input], Path]) -> CompileOptions:
    """The same build, reading its inputs where ``find`` says."""
    places = {one.path: find(one) for one in inputs}

    def there(option: str, value: object) -> object:
        found = named(option, value, Path())
        place = places.get(str(found.path.absolute())) if found.path else None
        return value if place is None else found.at(place)

    changed: dict[str, object] = {}
    for option in SENT:
        value = getattr(options, option)
        found = [there(option, one) for one in _values(option, value)]
        changed[option] = found[0] if len(found) == 1 and not isinstance(value, (list, tuple)) else found
    return replace(options, **changed)  # type: ignore[arg-type]
