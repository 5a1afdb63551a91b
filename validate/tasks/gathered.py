"""A judge that keeps one output of every image, for figures that are no sum over images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.targets import Target
from radixrt.validate.measure.parity import ParityAccumulator
from radixrt.validate.schema import Parity
from radixrt.validate.tasks.base import Interface, Judge, Outputs, OutputsJudged, Trust
from radixrt.validate.tasks.pictures import image_of, pixels_of, small

Rows = NDArray[Any]


class GatheredJudge(Judge):
    """Holds every output against the original's, and keeps the main one with what the images show.

    Attributes:
        network: the original.
        trust: what may be concluded.
        names: of the images.
        targets: what each is labelled with; empty where there are no labels to trust.
        pictures: each image, small (h, w, 3); None where the network takes none.
    """

    def __init__(self, network: Interface, trust: Trust) -> None:
        self.network, self.trust = network, trust
        self.names: list[str] = []
        self.targets: list[Target] = []
        self.pictures: list[NDArray[np.uint8] | None] = []
        self._close = ParityAccumulator(main=network.main, classify=False)
        self._before: list[Rows] = []
        self._after: list[Rows] = []

    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        self._close.add_outputs(reference, engine, batch.names)
        self._before.append(self.kept(reference[self.network.main]))
        self._after.append(self.kept(np.nan_to_num(engine[self.network.main])))
        self.names += batch.names
        if self.trust.labelled and batch.targets is not None:
            self.targets += batch.targets
        for index in range(len(batch.names)):
            image = image_of(batch, index)
            self.pictures.append(None if image is None else small(pixels_of(image)))

    def kept(self, values: Rows) -> Rows:
        """What is kept of an output (N, ...): a row of numbers for each image, (N, K)."""
        return values.reshape(len(values), -1).astype(np.float32)

    def result(self) -> OutputsJudged:
        return self.concluded(self._close.result(), np.concatenate(self._before), np.concatenate(self._after))

    @abstractmethod
    def concluded(self, close: Parity, before: Rows, after: Rows) -> OutputsJudged:
        """What the rows of the original and of the engine say, (images, K) each."""
