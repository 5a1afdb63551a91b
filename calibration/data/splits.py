"""Which images calibrate and which test: a fixed rule, where the data names no split of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from radixrt.calibration.data.images import Entry

CALIBRATION_FOLDERS, TEST_FOLDERS = ("calibration", "train"), ("test", "val")

#: The share of images without a split of their own that calibrate.
CALIBRATION_SHARE = 0.2


@dataclass(frozen=True)
class Splits:
    """What a layout holds, before preprocessing; ``labels`` are the names of the classes, by index."""

    calibration: Sequence[Entry]
    test: Sequence[Entry]
    labels: tuple[str, ...]

    def with_labels(self, labels: tuple[str, ...]) -> Splits:
        """The same images with the classes numbered as ``labels`` has them.

        Where the data has a class that ``labels`` lacks, nothing changes: the classes are not that network's.
        """
        if not set(self.labels) <= set(labels):
            return self
        return Splits(reindex(self.calibration, self.labels, labels), reindex(self.test, self.labels, labels), labels)


def position(name: str) -> float:
    """Where the hash of an image's name falls in 0..1."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def mixed(entries: Iterable[Entry]) -> list[Entry]:
    """In the order of the names' hashes: fixed, and the classes are mixed."""
    return sorted(entries, key=lambda entry: (position(entry.name), entry.name))


def split(entries: Iterable[Entry], labels: tuple[str, ...]) -> Splits:
    """The first fifth of the hashes calibrates, the rest tests. Adding images moves none from one half to the other."""
    ordered = mixed(entries)
    count = sum(position(entry.name) < CALIBRATION_SHARE for entry in ordered)
    count = min(max(count, 1), max(len(ordered) - 1, 1))  # a handful of images still gives both halves one
    return Splits(ordered[:count], ordered[count:], labels)


def reindex(entries: Iterable[Entry], old: Sequence[str], new: Sequence[str]) -> list[Entry]:
    """Numbers the classes anew: from their index in ``old`` to that in ``new``."""
    index = {name: number for number, name in enumerate(new)}
    return [e if e.label is None else replace(e, label=index[old[e.label]]) for e in entries]
