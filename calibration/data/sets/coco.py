"""Images and the boxes on them, from annotations in COCO's JSON.

======================================================  =======================================================
``annotations.json``                                    its images lie beside it, or in a folder ``images`` there
a folder with one ``.json`` file                        the same
a folder with ``calibration`` or ``train``, and         each of these two a folder as above
``test`` or ``val``
a folder with ``annotations/instances_train*.json``     COCO's own layout, images in ``train*`` and ``val*``
and ``annotations/instances_val*.json``
======================================================  =======================================================
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from radixrt.calibration.data.boxes import Boxes
from radixrt.calibration.data.images import Entry
from radixrt.calibration.data.splits import CALIBRATION_FOLDERS, TEST_FOLDERS, Splits, split
from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError, first_fault


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Image(_Loose):
    id: int
    file_name: str


class _Category(_Loose):
    id: int = Field(ge=0)
    name: str


class _Annotation(_Loose):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class _File(_Loose):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True)
class Annotated:
    """What one file says: the images with their boxes, in the file's order, and the categories' names by their id.

    A box's label is its category's place among the ids, in order.
    """

    images: tuple[tuple[Path, Boxes], ...]
    categories: dict[int, str]


def read_coco(path: Path) -> Splits | None:
    """Reads a file or a folder as above; None where a folder is no such thing.

    Raises:
        InputError: annotations are there and cannot be used.
    """
    if path.is_file():
        return split(*_entries(path, path.parent), TargetKind.BOXES)
    halves = find_own_layout(path)
    if halves is None:
        inner = [_first_there(path, names) for names in (CALIBRATION_FOLDERS, TEST_FOLDERS)]
        found = [folder and find_annotations(folder) for folder in inner]
        if all(found):
            halves = tuple(file for file in found if file)  # type: ignore[assignment]
    if halves is None:
        file = find_annotations(path)
        return None if file is None else split(*_entries(file, path), TargetKind.BOXES)
    (first, names), (second, others) = (_entries(file, path) for file in halves)
    if names != others:
        raise InputError(f"{halves[0]} and {halves[1]} list other categories: give both the same list")
    return Splits(first, second, names, TargetKind.BOXES)


def _entries(file: Path, root: Path) -> tuple[list[Entry], tuple[str, ...]]:
    found = read_annotations(file)
    entries = [Entry(Path(os.path.relpath(path, root)).as_posix(), path, boxes) for path, boxes in found.images]
    return entries, tuple(found.categories.values())


def _first_there(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def find_annotations(folder: Path) -> Path | None:
    """The one file in a folder that has COCO's lists; None where there is none, or several."""
    files = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    return files[0] if len(files) == 1 and b'"annotations"' in files[0].read_bytes() else None


def find_own_layout(folder: Path) -> tuple[Path, Path] | None:
    """COCO's own files of training and validation; None where these are not there."""
    train, val = (sorted((folder / "annotations").glob(f"instances_{half}*.json")) for half in ("train", "val"))
    return (train[0], val[0]) if train and val else None


def read_annotations(file: Path) -> Annotated:
    """Reads a file and looks for its images; opens none.

    Raises:
        InputError: it is not COCO's JSON, contradicts itself, or names images that are not there.
    """
    try:
        content = _File.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}; check the path and its rights") from error
    except ValidationError as error:
        raise InputError(
            f"{file} is not COCO's JSON of boxes: {first_fault(error)}; it has the lists images (id, file_name), "
            "annotations (image_id, category_id, bbox) and categories (id, name)"
        ) from error
    if not content.images:
        raise InputError(f"{file} lists no images: its list `images` is empty")
    categories = {category.id: category.name for category in sorted(content.categories, key=lambda one: one.id)}
    by_image: dict[int, list[_Annotation]] = defaultdict(list)
    known = {image.id for image in content.images}
    if len(known) < len(content.images):
        raise InputError(f"{file}: two images have the same id: give each its own")
    for number, one in enumerate(content.annotations):
        _refuse_contradiction(file, number, one, known, categories)
        by_image[one.image_id].append(one)
    root = _root_of(file, content.images)
    ids = tuple(categories)
    return Annotated(
        tuple((root / image.file_name, _boxes(by_image[image.id], ids)) for image in content.images), categories
    )


def _refuse_contradiction(
    file: Path, number: int, one: _Annotation, images: set[int], categories: dict[int, str]
) -> None:
    where = f"{file}, annotation {number + 1}"
    if one.image_id not in images:
        raise InputError(f"{where}: there is no image with the id {one.image_id}: mend image_id, or list the image")
    if one.category_id not in categories:
        raise InputError(f"{where}: there is no category with the id {one.category_id}: mend it, or list the category")
    if not np.isfinite(one.bbox).all() or min(one.bbox[2:]) < 0:
        raise InputError(f"{where}: the box {list(one.bbox)} is none: write [left, top, width, height] in pixels")


def _root_of(file: Path, images: list[_Image]) -> Path:
    """The folder that the images' names start from.

    Raises:
        InputError: images are missing, or lie outside it.
    """
    half = file.stem.removeprefix("instances_")
    folders = [file.parent, file.parent / "images", file.parent.parent / half, file.parent.parent / "images" / half]
    lacking = {
        folder: [one.file_name for one in images if not (folder / one.file_name).is_file()] for folder in folders
    }
    root = min(folders, key=lambda folder: len(lacking[folder]))
    if missing := lacking[root]:
        raise InputError(
            f"{file} names {len(missing)} of {len(images)} images that are not in {root}, the first is {missing[0]}: "
            "put them there, beside the file or in a folder `images` beside it, or take them off its lists"
        )
    outside = next((one.file_name for one in images if ".." in Path(one.file_name).parts), None)
    if outside is not None:
        raise InputError(f"{file}: {outside!r} lies outside {root}; put the images below the file's folder")
    return root


def _boxes(annotations: list[_Annotation], ids: tuple[int, ...]) -> Boxes:
    rows = np.array([one.bbox for one in annotations], dtype=np.float32).reshape(-1, 4)
    return Boxes(
        np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1),
        np.array([ids.index(one.category_id) for one in annotations], dtype=np.int64),
        crowd=np.array([bool(one.iscrowd) for one in annotations], dtype=bool),
        ids=ids,
    )
