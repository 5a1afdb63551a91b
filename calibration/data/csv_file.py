"""Finds the images that a CSV file names: the columns ``path,label``, and ``split`` where the file says which half."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from radixrt.calibration.data.images import Entry
from radixrt.calibration.data.splits import CALIBRATION_FOLDERS, TEST_FOLDERS, Splits, split
from radixrt.errors import InputError


def read_csv(path: Path) -> Splits:
    """Reads the table; opens no image, so that a path which leads nowhere is named and skipped later.

    Raises:
        InputError: the file is no such table; the message gives the line.
    """
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
        return split(entries, labels)
    half = {name: [e for e, r in zip(entries, rows, strict=True) if r.split == name] for name in split_names}
    calibration = next((half[name] for name in CALIBRATION_FOLDERS if name in half), [])
    test = next((half[name] for name in TEST_FOLDERS if name in half), [])
    if not calibration or not test or "" in split_names:
        raise InputError(
            f"{path} has a column split, so each line needs one, and both halves images: write calibration or train,"
            " and test or val"
        )
    return Splits(calibration, test, labels)


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


def _number_labels(labels: set[str], file: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Integers are the network's class indices, as they stand; other labels are names, numbered in sorted order."""
    if not all(re.fullmatch(r"[+-]?[0-9]{1,9}", label) for label in labels):
        names = tuple(sorted(labels))
        return names, {name: index for index, name in enumerate(names)}
    index = {label: int(label) for label in labels}
    low, high = min(index.values()), max(index.values())
    if low < 0 or high > 100_000:
        raise InputError(f"{file}: the label {low if low < 0 else high} is no class index; classes start at 0")
    return tuple(str(number) for number in range(high + 1)), index


def _first_repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
