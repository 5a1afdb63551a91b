"""Which images calibrate and which test: a fixed rule, where the data names no split of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from radixrt.calibration.data.boxes import Boxes
from radixrt.calibration.data.images import Entry
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.errors import InputError

CALIBRATION_FOLDERS, TEST_FOLDERS = ("calibration", "train"), ("test", "val")

#: The share of images without a split of their own that calibrate.
CALIBRATION_SHARE = 0.2


@dataclass(frozen=True)
class Splits:
    """What a layout holds, before preprocessing.

    ``labels`` are the names of the classes, by index; ``kind`` is what the images are labelled with, if anything.
    """

    calibration: Sequence[Entry]
    test: Sequence[Entry]
    labels: tuple[str, ...]
    kind: TargetKind | None = TargetKind.CLASSES

    def with_labels(self, labels: tuple[str, ...]) -> Splits:
        """The same images with the classes numbered as ``labels`` has them.

        Where the data has a class that ``labels`` lacks, nothing changes: the classes are not that network's.
        """
        if not set(self.labels) <= set(labels):
            return self
        calibration, test = (reindex(half, self.labels, labels) for half in (self.calibration, self.test))
        return Splits(calibration, test, labels, self.kind)

    def as_numbers(self, spec: str) -> Splits:
        """The same images, labelled with the numbers that their class folders are named after.

        Raises:
            InputError: a folder's name is no number.
        """
        try:
            number = [float(label) for label in self.labels]
        except ValueError as error:
            raise InputError(
                f"the class folders of {spec} are no numbers: give a CSV file of path and numbers"
            ) from error

        def numbered(half: Sequence[Entry]) -> list[Entry]:
            return [replace(entry, target=(number[int(entry.target or 0)],)) for entry in half]

        return Splits(numbered(self.calibration), numbered(self.test), (), TargetKind.NUMBERS)


def position(name: str) -> float:
    """Where the hash of an image's name falls in 0..1."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def mixed(entries: Iterable[Entry]) -> list[Entry]:
    """In the order of the names' hashes: fixed, and the classes are mixed."""
    return sorted(entries, key=lambda entry: (position(entry.name), entry.name))


def split(entries: Iterable[Entry], labels: tuple[str, ...], kind: TargetKind | None = TargetKind.CLASSES) -> Splits:
    """The first fifth of the hashes calibrates, the rest tests. Adding images moves none from one half to the other."""
    ordered = mixed(entries)
    count = sum(position(entry.name) < CALIBRATION_SHARE for entry in ordered)
    count = min(max(count, 1), max(len(ordered) - 1, 1))  # a handful of images still gives both halves one
    return Splits(ordered[:count], ordered[count:], labels, kind)


def reindex(entries: Iterable[Entry], old: Sequence[str], new: Sequence[str]) -> list[Entry]:
    """Numbers the classes anew, one or several of an image: from their index in ``old`` to that in ``new``."""
    index = {number: new.index(name) for number, name in enumerate(old) if name in new}

    def numbered(target: Target) -> Target:
        if isinstance(target, tuple):
            return tuple(index[one] for one in target)
        if isinstance(target, Boxes):
            return target.renumbered(index)
        return index[target] if isinstance(target, int) else target

    return [replace(entry, target=numbered(entry.target)) for entry in entries]
