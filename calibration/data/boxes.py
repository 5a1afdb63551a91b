"""The objects on an image, as boxes: where the file has them, and where they are once the image is prepared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.pixels import placed
from radixrt.calibration.data.preprocess import Preprocess


@dataclass(frozen=True, eq=False)
class Boxes:
    """The objects of one image, as a network gives them or as they are labelled.

    Attributes:
        boxes: float (M, 4): left, top, right, bottom in pixels.
        labels: int (M,): the categories, by their place in the list of all.
        scores: float (M,); what is labelled has none.
        crowd: bool (M,): a box around many objects, where nothing that is found counts as wrong.
        ids: what the data's file calls each category of the list; empty where no file does.
    """

    boxes: NDArray[np.floating[Any]]
    labels: NDArray[np.integer[Any]]
    scores: NDArray[np.floating[Any]] | None = None
    crowd: NDArray[np.bool_] | None = None
    ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def finite(self) -> Boxes:
        """Those whose numbers are finite."""
        kept = np.isfinite(self.boxes).all(axis=1)
        if self.scores is not None:
            kept &= np.isfinite(self.scores)
        return self._only(kept)

    @property
    def identity(self) -> str:
        """What tells these from others, for a record of what was compared."""
        parts = (self.boxes, self.labels, self.crowd if self.crowd is not None else self.labels * 0)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def surer_than(self, score: float) -> Boxes:
        """Those with a score above this."""
        return self if self.scores is None else self._only(self.scores > score)

    def renumbered(self, index: Mapping[int, int]) -> Boxes:
        """The same with each label's place in another list of the same categories."""
        old = {new: place for place, new in index.items()}
        return replace(
            self,
            labels=np.array([index[int(label)] for label in self.labels], dtype=np.int64),
            ids=tuple(self.ids[old[place]] if place in old else -1 for place in range(max(old, default=-1) + 1)),
        )

    def prepared(self, size: tuple[int, int], preprocess: Preprocess) -> Boxes:
        """The same objects on the network's input.

        Args:
            size: the image's width and height in its file.
            preprocess: how the image is resized and cropped; what the crop leaves out is gone.
        """
        scale, offset = placed(size, preprocess)
        height, width = preprocess.input_size[1:]
        moved = self.boxes * np.tile(scale, 2) + np.tile(offset, 2)
        clipped = np.clip(moved, 0, np.array([width, height, width, height]))
        inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        return replace(self, boxes=clipped)._only(inside)

    def _only(self, kept: NDArray[np.bool_]) -> Boxes:
        scores = None if self.scores is None else self.scores[kept]
        crowd = None if self.crowd is None else self.crowd[kept]
        return Boxes(self.boxes[kept], self.labels[kept], scores, crowd, self.ids)
