"""Finds the images that a CSV file names: a column ``path``, what they are labelled with, and perhaps ``split``.

===============================  ======================================================================================
``path,label``                   a class: an integer is its index, other labels are names, numbered in sorted order;
                                 a number with a point is a number
``path,label``                   several labels, with ``;`` or ``|`` between (none where the cell is empty)
``path,cat,dog``                 the same, with a 0 or a 1 for each
``path,x,y``                     numbers
``path,text``                    a text
===============================  ======================================================================================
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from radixrt.calibration.data.images import Entry
from radixrt.calibration.data.splits import CALIBRATION_FOLDERS, TEST_FOLDERS, Splits, split
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.errors import InputError

_PATH, _SPLIT = "path", "split"
_BETWEEN = re.compile(r"[;|]")
_FIRST_LINE = "its first line must be path,label"


def read_csv(path: Path, kind: TargetKind | None = None) -> Splits:
    """Reads the table; opens no image, so that a path which leads nowhere is named and skipped later.

    Args:
        path: the file.
        kind: what its labels are; as they look where absent.

    Raises:
        InputError: the file is no such table, or its labels are not of that kind; the message gives the line.
    """
    columns, rows = _read(path)
    kind = kind or _look(columns, rows)
    labels, target_of = _READERS[kind](path, columns, rows)
    entries = [replace(row.entry, target=target_of(row)) for row in rows]
    split_names = {row.split for row in rows}
    if split_names == {""}:
        return split(entries, labels, kind)
    half = {name: [e for e, r in zip(entries, rows, strict=True) if r.split == name] for name in split_names}
    calibration = next((half[name] for name in CALIBRATION_FOLDERS if name in half), [])
    test = next((half[name] for name in TEST_FOLDERS if name in half), [])
    if not calibration or not test or "" in split_names:
        raise InputError(
            f"{path} has a column split, so each line needs one, and both halves images: write calibration or train,"
            " and test or val"
        )
    return Splits(calibration, test, labels, kind)


@dataclass(frozen=True)
class _Row:
    """A line: the image, and the cells that say what it shows, in the columns' order."""

    entry: Entry
    cells: tuple[str, ...]
    split: str
    line: int


_Reader = Callable[[Path, Sequence[str], Sequence[_Row]], tuple[tuple[str, ...], Callable[[_Row], Target]]]


def _read(path: Path) -> tuple[tuple[str, ...], list[_Row]]:
    """The columns that say what images show, and the lines."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = list(reader.fieldnames or ())
            columns = tuple(name for name in names if name not in (_PATH, _SPLIT))
            if _PATH not in names or not columns:
                missing = " and ".join(name for name in ("label", _PATH) if name not in names)
                raise InputError(f"{path} has no column {missing}: {_FIRST_LINE}")
            rows = [_read_row(path, row, columns, reader.line_num) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8 ({error}): write the lines path,label") from error
    if not rows:
        raise InputError(f"{path} names no images: write a line path,label for each")
    repeated = _first_repeated(row.entry.name for row in rows)
    if repeated:
        raise InputError(
            f"{path} names {repeated} twice: an image belongs to one class and one split, so keep one line"
        )
    return columns, rows


def _read_row(file: Path, row: Mapping[str, str | None], columns: Sequence[str], line: int) -> _Row:
    name, split = (row[_PATH] or "").strip(), (row.get(_SPLIT) or "").strip()
    if not name:
        raise InputError(f"{file}, line {line}: the path or the label is empty; write path,label")
    if split and split not in (*CALIBRATION_FOLDERS, *TEST_FOLDERS):
        raise InputError(f"{file}, line {line}: unknown split {split!r}; write calibration, train, test or val")
    folder = file.parent.absolute()
    image = Path(os.path.normpath(folder / name))  # links are not followed: a data set may be made of them
    if "\0" in name or not image.is_relative_to(folder):
        raise InputError(
            f"{file}, line {line}: {name!r} lies outside the CSV's folder; put the CSV beside or above its images"
        )
    cells = tuple((row[column] or "").strip() for column in columns)
    return _Row(Entry(image.relative_to(folder).as_posix(), image), cells, split, line)


def _look(columns: Sequence[str], rows: Sequence[_Row]) -> TargetKind:
    """What the labels look like."""
    if len(columns) == 1:
        cells = [row.cells[0] for row in rows]
        if columns[0] == "text":
            return TargetKind.TEXTS
        if columns[0] == "labels" or any(_BETWEEN.search(cell) for cell in cells):
            return TargetKind.LABELS
        numbers = [_number(cell) for cell in cells]
        if None not in numbers and not all(re.fullmatch(r"[+-]?[0-9]+", cell) for cell in cells):
            return TargetKind.NUMBERS
        return TargetKind.CLASSES
    if "label" in columns:
        return TargetKind.CLASSES
    marks = {cell for row in rows for cell in row.cells}
    return TargetKind.LABELS if marks <= {"0", "1"} else TargetKind.NUMBERS


def _classes(
    file: Path, columns: Sequence[str], rows: Sequence[_Row]
) -> tuple[tuple[str, ...], Callable[[_Row], Target]]:
    at = columns.index("label") if "label" in columns else 0
    for row in rows:
        if not row.cells[at]:
            raise InputError(f"{file}, line {row.line}: the path or the label is empty; write path,label")
    names, index = _number_labels({row.cells[at] for row in rows}, file)
    return names, lambda row: index[row.cells[at]]


def _labels(
    file: Path, columns: Sequence[str], rows: Sequence[_Row]
) -> tuple[tuple[str, ...], Callable[[_Row], Target]]:
    if len(columns) > 1:
        for row in rows:
            if not set(row.cells) <= {"0", "1"}:
                said = ", ".join(row.cells)
                raise InputError(f"{file}, line {row.line}: {said}; write a 0 or a 1 for each of {', '.join(columns)}")
        return tuple(columns), lambda row: tuple(i for i, cell in enumerate(row.cells) if cell == "1")

    def words(row: _Row) -> list[str]:
        return [word.strip() for word in _BETWEEN.split(row.cells[0]) if word.strip()]

    names, index = _number_labels({word for row in rows for word in words(row)}, file)
    return names, lambda row: tuple(sorted({index[word] for word in words(row)}))


def _numbers(
    file: Path, columns: Sequence[str], rows: Sequence[_Row]
) -> tuple[tuple[str, ...], Callable[[_Row], Target]]:
    for row in rows:
        for column, cell in zip(columns, row.cells, strict=True):
            if _number(cell) is None:
                raise InputError(f"{file}, line {row.line}: {column} is {cell!r}, which is no number")
    return (), lambda row: tuple(float(cell) for cell in row.cells)


def _texts(
    file: Path, columns: Sequence[str], rows: Sequence[_Row]
) -> tuple[tuple[str, ...], Callable[[_Row], Target]]:
    at = columns.index("text") if "text" in columns else 0
    return (), lambda row: row.cells[at]


def _not_here(
    file: Path, columns: Sequence[str], rows: Sequence[_Row]
) -> tuple[tuple[str, ...], Callable[[_Row], Target]]:
    raise InputError(f"{file} is a table, which holds neither masks nor boxes: a mask lies beside each image, in PNG")


_READERS: Mapping[TargetKind, _Reader] = {
    TargetKind.CLASSES: _classes,
    TargetKind.LABELS: _labels,
    TargetKind.NUMBERS: _numbers,
    TargetKind.TEXTS: _texts,
    TargetKind.MASKS: _not_here,
    TargetKind.BOXES: _not_here,
}


def _number(cell: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _number_labels(labels: set[str], file: Path) -> tuple[tuple[str, ...], dict[str, int]]:
    """Integers are the network's class indices, as they stand; other labels are names, numbered in sorted order."""
    if not all(re.fullmatch(r"[+-]?[0-9]{1,9}", label) for label in labels):
        names = tuple(sorted(labels))
        return names, {name: index for index, name in enumerate(names)}
    index = {label: int(label) for label in labels}
    low, high = min(index.values(), default=0), max(index.values(), default=-1)
    if low < 0 or high > 100_000:
        raise InputError(f"{file}: the label {low if low < 0 else high} is no class index; classes start at 0")
    return tuple(str(number) for number in range(high + 1)), index


def _first_repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)
