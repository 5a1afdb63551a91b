"""Finds the images of a folder: class folders, a flat folder, images with masks beside them, or two halves of either.

What counts as an image is decided by the suffix; what it is, by its content, when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from radixrt.calibration.data.images import Entry
from radixrt.calibration.data.masks import mask_folders, pair_beside, pair_folders
from radixrt.calibration.data.splits import CALIBRATION_FOLDERS, TEST_FOLDERS, Splits, reindex, split
from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))


def read_folder(root: Path) -> Splits:
    """Reads a folder's layout; opens no image.

    Raises:
        InputError: there are no images, only one of two halves, images beside class folders, or no mask for some.
    """
    subfolders = _subfolders(root)
    if (pair := mask_folders(subfolders)) is not None and (split_inside := _read_split_masks(root, *pair)) is not None:
        return split_inside
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
    entries, labels, kind = _read_images(root, root)
    return Splits(entries, (), (), None) if kind is None else split(entries, labels, kind)


def _read_halves(root: Path, calibration: Path, test: Path) -> Splits:
    first, second = (_read_images(half, root) for half in (calibration, test))
    if first[2] is not second[2]:
        said = [
            f"{half.name} has {kind.value if kind else 'no labels'}"
            for half, (_, _, kind) in zip((calibration, test), (first, second), strict=True)
        ]
        if TargetKind.MASKS in (first[2], second[2]):
            raise InputError(f"the two halves of {root} are not labelled alike ({', '.join(said)}): give both masks")
    labels = tuple(sorted({*first[1], *second[1]}))
    return Splits(reindex(first[0], first[1], labels), reindex(second[0], second[1], labels), labels, second[2])


def _read_split_masks(root: Path, images: Path, masks: Path) -> Splits | None:
    """``images/train``, ``masks/train`` and so on; None where the two hold no halves."""
    inner, theirs = _subfolders(images), _subfolders(masks)
    halves = [
        next(((inner[name], theirs[name]) for name in names if name in inner and name in theirs), None)
        for names in (CALIBRATION_FOLDERS, TEST_FOLDERS)
    ]
    if halves[0] is None or halves[1] is None:
        return None
    calibration, test = (_masked(root, *half) for half in halves if half is not None)
    return Splits(calibration, test, (), TargetKind.MASKS)


def _masked(root: Path, images: Path, masks: Path) -> list[Entry]:
    """The images of one folder with their masks in another."""
    found = list(_images(_files_below(images)))
    if not found:
        raise InputError(f"there are no images in {images}: put some there ({', '.join(sorted(SUFFIXES))})")
    pairs = pair_folders(found, images, list(_images(_files_below(masks))), masks)
    return [Entry(image.relative_to(root).as_posix(), image, mask) for image, mask in pairs.items()]


def _read_images(folder: Path, root: Path) -> tuple[list[Entry], tuple[str, ...], TargetKind | None]:
    """The images of class folders with the classes' names, or of others with none; names start at root."""

    def named(path: Path, target: object = None) -> Entry:
        return Entry(path.relative_to(root).as_posix(), path, target)

    subfolders = _subfolders(folder)
    if (pair := mask_folders(subfolders)) is not None:
        return _masked(root, *pair), (), TargetKind.MASKS
    inner = list(subfolders.values())
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
    if classes:
        labelled = [named(path, index) for index, name in enumerate(classes) for path in by_class[name]]
        return labelled, classes, TargetKind.CLASSES
    if pairs := pair_beside(loose):
        return [named(image, mask) for image, mask in pairs.items()], (), TargetKind.MASKS
    return [named(path) for path in loose], (), None


def _subfolders(folder: Path) -> dict[str, Path]:
    return {entry.name: entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not _hidden(entry)}


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
