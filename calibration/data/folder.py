"""Finds the images of a folder: class folders, a flat folder, or two halves of either.

What counts as an image is decided by the suffix; what it is, by its content, when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from radixrt.calibration.data.images import Entry
from radixrt.calibration.data.splits import CALIBRATION_FOLDERS, TEST_FOLDERS, Splits, reindex, split
from radixrt.errors import InputError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))


def read_folder(root: Path) -> Splits:
    """Reads a folder's layout; opens no image.

    Raises:
        InputError: there are no images, only one of two halves, or images beside class folders.
    """
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
        return Splits(entries, (), ())
    return split(entries, labels)


def _read_halves(root: Path, calibration: Path, test: Path) -> Splits:
    (first, first_labels), (second, second_labels) = (_read_images(half, root) for half in (calibration, test))
    labels = tuple(sorted({*first_labels, *second_labels}))
    return Splits(reindex(first, first_labels, labels), reindex(second, second_labels, labels), labels)


def _read_images(folder: Path, root: Path) -> tuple[list[Entry], tuple[str, ...]]:
    """The images of class folders with the classes' names, or of a flat folder with none; names start at root."""

    def named(path: Path, label: int | None) -> Entry:
        return Entry(path.relative_to(root).as_posix(), path, label)

    inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not _hidden(entry)]
    by_class = {entry.name: list(_images(_files_below(entry))) for entry in inner}
    # An empty class folder stays a class, as in torchvision: leaving it out would renumber those after it.
    classes = tuple(by_class) if any(by_class.values()) else ()
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
    def refuse(error: OSError) -> None:
        raise error  # os.walk would leave an unreadable folder out without a word

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in files)


def _images(files: Iterable[Path]) -> Iterable[Path]:
    """Those that look like images, sorted. A link that leads nowhere stays: it is named when it cannot be read."""
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES and not _hidden(path) and not path.is_dir())


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")
