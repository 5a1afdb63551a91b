"""What ``DATA=`` names becomes images for calibration and for the test, which never share a file.

==============================================  =============================================================
``elpv``                                        photographs of solar cells (package ``elpv-dataset``), 4 classes
a folder with ``calibration`` or ``train``,     these two, each a folder of class folders or flat
and ``test`` or ``val``
a folder of class folders                       classes in the order of their sorted names, as torchvision has them
a folder of images                              calibration only
a CSV file with the columns ``path,label``      integer labels are class indices, others are sorted names; a column
                                                ``split`` (calibration, train, test, val) keeps the two apart
==============================================  =============================================================

Where the data names no split, a fixed rule makes one: an image belongs to the calibration when the hash of its name
(relative to the folder) falls in the first fifth. It depends on nothing else, so that adding images moves none.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from radixrt.calibration.elpv import read_elpv
from radixrt.calibration.images import Entry, ImageBatch, ImageList, Skipped
from radixrt.calibration.preprocess import Preprocess
from radixrt.errors import InputError

__all__ = ["DataSource", "Entry", "ImageBatch", "ImageList", "Preprocess", "Skipped", "load_data", "load_training_data"]

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))
CALIBRATION_FOLDERS, TEST_FOLDERS = ("calibration", "train"), ("test", "val")

#: The share of images without a split of their own that calibrate.
CALIBRATION_SHARE = 0.2


@dataclass(frozen=True)
class DataSource:
    """Images to calibrate with and to test with, disjoint; ``test`` is None where the data cannot give one."""

    spec: str
    calibration: ImageList
    test: ImageList | None
    labels: tuple[str, ...]


@dataclass(frozen=True)
class _Splits:
    """What a layout holds, before preprocessing. ``labels`` are the names of the classes, by index."""

    calibration: Sequence[Entry]
    test: Sequence[Entry]
    labels: tuple[str, ...]
    train: Sequence[Entry] = ()


def load_data(
    spec: str,
    preprocess: Preprocess,
    *,
    calibration_limit: int = 512,
    labels: Sequence[str] | None = None,
    workers: int = 0,
) -> DataSource:
    """Finds the images that ``spec`` names; decodes none of them yet.

    Args:
        spec: ``elpv``, a folder, or a CSV file.
        preprocess: how each image is prepared.
        calibration_limit: at most so many images calibrate.
        labels: the names of the network's classes in the order of its head, where they are known: the data may
            then hold fewer classes than the head.
        workers: threads that decode; 0 or 1 decodes in the caller's.

    Raises:
        InputError: there is no such data, it holds no images, or its classes or columns cannot be used.
        UnavailableError: ``elpv`` without the package.
    """
    splits = _read(spec)
    if labels is not None and splits.labels:
        splits = _with_labels(splits, tuple(labels), spec)
    calibration = _mixed(splits.calibration)[:calibration_limit]
    test = _mixed(splits.test)
    return DataSource(
        spec=spec,
        calibration=ImageList(calibration, preprocess, workers),
        test=ImageList(test, preprocess, workers) if test else None,
        labels=splits.labels,
    )


def load_training_data(preprocess: Preprocess) -> ImageList:
    """The ELPV images that the sample networks are trained on: neither calibration nor test.

    Raises:
        UnavailableError: the package is not installed.
    """
    return ImageList(_mixed(read_elpv().train), preprocess)


def _read(spec: str) -> _Splits:
    if spec == "elpv":
        elpv = read_elpv()
        return _Splits(elpv.calibration, elpv.test, elpv.labels)
    path = Path(spec)
    try:
        if path.is_dir():
            return _read_folder(path)
        if path.is_file():
            if path.suffix.lower() == ".csv":
                return _read_csv(path)
            raise InputError(f"{spec} is no data: give a folder of images, a CSV file (path,label), or `elpv`")
    except OSError as error:
        raise InputError(
            f"cannot read the data {spec}: {error.strerror or error}; check the path and its rights"
        ) from error
    raise InputError(f"there is no data at {spec}: give a folder of images, a CSV file (path,label), or `elpv`")


# --- folders ---


def _read_folder(root: Path) -> _Splits:
    subfolders = {entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir() and not _hidden(entry)}
    halves = [
        next((subfolders[name] for name in names if name in subfolders), None)
        for names in (CALIBRATION_FOLDERS, TEST_FOLDERS)
    ]
    if halves[0] is not None and halves[1] is not None:
        return _read_halves(root, halves[0], halves[1])
    if subfolders and set(subfolders) <= {*CALIBRATION_FOLDERS, *TEST_FOLDERS}:
        raise InputError(
            f"{root} holds {', '.join(subfolders)} but not both halves: add a folder `calibration` or `train` and a"
            " folder `test` or `val`, or name the inner folder itself"
        )
    entries, labels = _read_images(root, root)
    if not labels:
        return _Splits(entries, (), ())
    return _split(entries, labels)


def _read_halves(root: Path, calibration: Path, test: Path) -> _Splits:
    (first, first_labels), (second, second_labels) = (_read_images(half, root) for half in (calibration, test))
    labels = tuple(sorted({*first_labels, *second_labels}))
    return _Splits(_reindex(first, first_labels, labels), _reindex(second, second_labels, labels), labels)


def _read_images(folder: Path, root: Path) -> tuple[list[Entry], tuple[str, ...]]:
    """The images of class folders with the classes' names, or of a flat folder with none; names start at root."""

    def named(path: Path, label: int | None) -> Entry:
        return Entry(path.relative_to(root).as_posix(), path, label)

    inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not _hidden(entry)]
    by_class = {entry.name: list(_images(_files_below(entry))) for entry in inner}
    classes = tuple(name for name, files in by_class.items() if files)
    loose = list(_images(folder.iterdir()))
    if classes and loose:
        raise InputError(
            f"{folder} holds images ({loose[0].name}, ...) beside class folders ({classes[0]}, ...): put each image in"
            " the folder of its class, or all in one folder"
        )
    if not classes and not loose:
        raise InputError(f"there are no images in {folder}: put some there ({', '.join(sorted(SUFFIXES))})")
    labelled = [named(path, index) for index, name in enumerate(classes) for path in by_class[name]]
    return labelled or [named(path, None) for path in loose], classes


def _files_below(folder: Path) -> Iterable[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in files)


def _images(files: Iterable[Path]) -> Iterable[Path]:
    """Those that look like images, sorted. A link that leads nowhere stays: it is named when it cannot be read."""
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES and not _hidden(path) and not path.is_dir())


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


# --- CSV ---


def _read_csv(path: Path) -> _Splits:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = {"path", "label"} - set(reader.fieldnames or ())
            if missing:
                raise InputError(
                    f"{path} has no column {' and '.join(sorted(missing))}: its first line must be path,label"
                )
            rows = [_read_row(path, row, reader.line_num) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}): write the lines path,label") from error
    if not rows:
        raise InputError(f"{path} names no images: write a line path,label for each")
    repeated = _first_repeated(row.entry.name for row in rows)
    if repeated:
        raise InputError(
            f"{path} names {repeated} twice: an image belongs to one class and one split, so keep one line"
        )
    labels, index = _number_labels({row.label for row in rows}, path)
    entries = [replace(row.entry, label=index[row.label]) for row in rows]
    split_names = {row.split for row in rows}
    if split_names == {""}:
        return _split(entries, labels)
    half = {name: [e for e, r in zip(entries, rows, strict=True) if r.split == name] for name in split_names}
    calibration = next((half[name] for name in CALIBRATION_FOLDERS if name in half), [])
    test = next((half[name] for name in TEST_FOLDERS if name in half), [])
    if not calibration or not test or "" in split_names:
        raise InputError(
            f"{path} has a column split, so each line needs one, and both halves images: write calibration or train,"
            " and test or val"
        )
    return _Splits(calibration, test, labels)


@dataclass(frozen=True)
class _Row:
    entry: Entry
    label: str
    split: str


def _read_row(file: Path, row: Mapping[str, str | None], line: int) -> _Row:
    name, label = (row["path"] or "").strip(), (row["label"] or "").strip()
    split = (row.get("split") or "").strip()
    if not name or not label:
        raise InputError(f"{file}, line {line}: the path or the label is empty; write path,label")
    if split and split not in (*CALIBRATION_FOLDERS, *TEST_FOLDERS):
        raise InputError(f"{file}, line {line}: unknown split {split!r}; write calibration, train, test or val")
    folder = file.parent.absolute()
    image = Path(os.path.normpath(folder / name))  # links are not followed: a data set may be made of them
    if "\0" in name or not image.is_relative_to(folder):
        raise InputError(
            f"{file}, line {line}: {name!r} lies outside the CSV's folder; put the CSV beside or above its images"
        )
    return _Row(Entry(image.relative_to(folder).as_posix(), image), label, split)


def _number_labels(found: set[str], file: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Integers are the network's class indices, as they stand; other labels are names, numbered in sorted order."""
    if not all(label.lstrip("+-").isdecimal() for label in found):
        names = tuple(sorted(found))
        return names, {name: index for index, name in enumerate(names)}
    index = {label: int(label) for label in found}
    low, high = min(index.values()), max(index.values())
    if low < 0 or high > 100_000:
        raise InputError(f"{file}: the label {low if low < 0 else high} is no class index; classes start at 0")
    return tuple(str(number) for number in range(high + 1)), index


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


# --- the split, the order, the labels ---


def _position(name: str) -> float:
    """Where the hash of a name falls in 0..1."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def _split(entries: Sequence[Entry], labels: tuple[str, ...]) -> _Splits:
    ordered = _mixed(entries)
    count = sum(_position(entry.name) < CALIBRATION_SHARE for entry in ordered)
    count = min(max(count, 1), max(len(ordered) - 1, 1))  # a handful of images still gives both halves one
    return _Splits(ordered[:count], ordered[count:], labels)


def _mixed(entries: Iterable[Entry]) -> list[Entry]:
    """In the order of the names' hashes: fixed, and the classes are mixed."""
    return sorted(entries, key=lambda entry: (_position(entry.name), entry.name))


def _reindex(entries: Iterable[Entry], old: Sequence[str], new: Sequence[str]) -> list[Entry]:
    index = {name: number for number, name in enumerate(new)}
    return [e if e.label is None else replace(e, label=index[old[e.label]]) for e in entries]


def _with_labels(splits: _Splits, labels: tuple[str, ...], spec: str) -> _Splits:
    unknown = sorted(set(splits.labels) - set(labels))
    if unknown:
        return splits  # the classes are not the network's: the accuracy stage says so
    renumber: Callable[[Sequence[Entry]], list[Entry]] = lambda entries: _reindex(entries, splits.labels, labels)  # noqa: E731
    return _Splits(renumber(splits.calibration), renumber(splits.test), labels)
