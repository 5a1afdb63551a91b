"""The ELPV photographs: 2,624 solar cells under electroluminescence, 300 x 300 pixels of gray.

Source: Deitsch et al., "Automatic classification of defective photovoltaic module cells in electroluminescence images"
(2019); package ``elpv-dataset``, CC BY-NC-SA 4.0. A cell counts as defective from a probability of 0.5 on.

The package's own loader decodes all images at once (225 MiB); here its table is read and the files are named.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from radixrt.calibration.data.images import Entry
from radixrt.errors import UnavailableError
from radixrt.export.samples.sample import LABELS

#: Of a hundred images: the first 50 train, the next 10 calibrate, the last 40 test.
TRAIN_PERCENT, CALIBRATION_PERCENT = 50, 10


@dataclass(frozen=True)
class Elpv:
    """The three splits, which share no file."""

    train: tuple[Entry, ...]
    calibration: tuple[Entry, ...]
    test: tuple[Entry, ...]
    labels: tuple[str, ...] = LABELS


def read_elpv() -> Elpv:
    """Reads the table of the installed package.

    Raises:
        UnavailableError: the package is not installed, or its table is not what it was.
    """
    spec = find_spec("elpv_dataset")
    hint = "Install it with `pip install 'radixrt[samples]'`, or give DATA= a folder of your own"
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError("elpv", "the package elpv-dataset is not installed", hint)
    table = Path(spec.submodule_search_locations[0]) / "data" / "labels.csv"
    try:
        lines = [line.split() for line in table.read_text(encoding="utf-8").splitlines()]
        entries = [
            Entry(Path(name).name, table.parent / name, LABELS.index(f"{kind}-{_state(float(probability))}"))
            for name, probability, kind in lines
        ]
    except (OSError, ValueError) as error:
        raise UnavailableError("elpv", f"its table cannot be read ({error})", hint) from error
    splits: dict[str, list[Entry]] = {"train": [], "calibration": [], "test": []}
    for entry in entries:
        splits[split_of(entry.name)].append(entry)
    return Elpv(tuple(splits["train"]), tuple(splits["calibration"]), tuple(splits["test"]))


def split_of(name: str) -> str:
    """The split of an image, from nothing but its file's name: ``train``, ``calibration`` or ``test``."""
    percent = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 100
    if percent < TRAIN_PERCENT:
        return "train"
    return "calibration" if percent < TRAIN_PERCENT + CALIBRATION_PERCENT else "test"


def _state(probability: float) -> str:
    return "defective" if probability >= 0.5 else "functional"
