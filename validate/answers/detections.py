"""Boxes, scores and labels, read from the outputs of a detector after its own post-processing.

Which output is which shows in shapes and types; what the numbers of a box are, and what a label counts, does not. Each
spelling that exporters use is tried on the original's own answers, and the one that finds most of what is labelled is
the network's: a wrong one finds next to nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.boxes import Boxes
from radixrt.engines.bundle.answers import Columns
from radixrt.validate.measure.mean_ap import MeanAP

Corners = Literal["left top right bottom", "top left bottom right", "left top width height", "centre width height"]
Counting = Literal["the file's ids", "places in the list", "places in the list from 1"]

CORNERS: tuple[Corners, ...] = (
    "left top right bottom",
    "top left bottom right",
    "left top width height",
    "centre width height",
)
COUNTINGS: tuple[Counting, ...] = ("the file's ids", "places in the list", "places in the list from 1")


@dataclass(frozen=True)
class Spelling:
    """What the numbers mean.

    Attributes:
        corners: of a box, the first number first.
        unit: whether they are shares of the image's sides; else pixels of the network's input.
        counting: what a label counts.
    """

    corners: Corners = CORNERS[0]
    unit: bool = False
    counting: Counting = COUNTINGS[0]

    @property
    def described(self) -> str:
        """In words."""
        return f"{self.corners} in {'shares of the sides' if self.unit else 'pixels'}, and labels as {self.counting}"

    def read(self, rows: Boxes, size: tuple[int, int], categories: Sequence[int]) -> Boxes:
        """The rows of one image in pixels, labels by their place in the list; one that is no category's becomes -1.

        Args:
            rows: as the network gives them.
            size: width and height of its input.
            categories: the ids of the file, in the order of the list.
        """
        a, b, c, d = rows.boxes.T
        columns = {
            "left top right bottom": (a, b, c, d),
            "top left bottom right": (b, a, d, c),
            "left top width height": (a, b, a + c, b + d),
            "centre width height": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
        }[self.corners]
        sides = np.tile(np.array(size if self.unit else (1, 1), dtype=np.float32), 2)
        return Boxes(np.stack(columns, axis=1) * sides, self._places(rows.labels, categories), rows.scores)

    def _places(self, labels: NDArray[np.integer[Any]], categories: Sequence[int]) -> NDArray[np.int64]:
        if self.counting == "the file's ids":
            place = {number: index for index, number in enumerate(categories)}
            return np.array([place.get(int(label), -1) for label in labels], dtype=np.int64)
        places = labels - (self.counting == "places in the list from 1")
        return np.where((places >= 0) & (places < len(categories)), places, -1).astype(np.int64)

    @classmethod
    def looks(cls, rows: Sequence[Boxes]) -> Spelling:
        """What the numbers look like where nothing is labelled: corners, where no third or fourth is the less."""
        boxes = np.concatenate([one.boxes for one in rows]) if rows else np.zeros((0, 4))
        corners = bool(len(boxes)) and bool((boxes[:, 2:] >= boxes[:, :2]).all())
        small = bool(len(boxes)) and float(np.abs(boxes).max()) <= 2
        return cls(CORNERS[0] if corners else CORNERS[3], small, COUNTINGS[1])


def rows_of(columns: Columns, outputs: Mapping[str, NDArray[Any]], images: int) -> list[Boxes]:
    """The rows of each image as they stand.

    Raises:
        ValueError: one image alone was run, and the outputs are of several.
    """
    return [
        Boxes(boxes.astype(np.float32), np.rint(labels).astype(np.int64), scores.astype(np.float32))
        for boxes, scores, labels in columns.rows(outputs, images)
    ]


def best_spelling(
    rows: Sequence[Boxes], truth: Sequence[Boxes], size: tuple[int, int], categories: Sequence[int]
) -> tuple[Spelling, float]:
    """The spelling in which a network's answers find most of what is labelled, and their mean average precision.

    Where labels count alike in two ways, the first stands.
    """
    tried = [Spelling(*each) for each in itertools.product(CORNERS, (False, True), COUNTINGS)]
    found = {
        spelling: MeanAP(truth, [spelling.read(row, size, categories) for row in rows]).value for spelling in tried
    }
    best = max(tried, key=found.__getitem__)
    return best, found[best]
