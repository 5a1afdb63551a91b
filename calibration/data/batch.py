"""Samples of the data: what the network takes of each, and what is known about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radixrt.calibration.data.targets import Target
from radixrt.export.feed import Feed
from radixrt.export.sides import Size

READ_BYTES = 1 << 25
"""What samples that are read together may take, unless a single one takes more."""


@dataclass(frozen=True)
class Batch:
    """Samples that were read together.

    Attributes:
        inputs: each input by name, (N, ...); an image is float32 (N, C, H, W), or (N, H, W, C) and uint8 where its file
            says so.
        targets: what each sample is labelled with, a mask read as uint8 (H, W); None where the data has none.
        names: what reports call the samples.
    """

    inputs: Feed
    targets: tuple[Target, ...] | None
    names: tuple[str, ...]


class Samples(ABC):
    """Samples of one split, in a fixed order, read in batches: only the current batch is in memory."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """What reports call the samples."""

    @property
    @abstractmethod
    def targets(self) -> tuple[Target, ...] | None:
        """What each sample is labelled with, masks as files; None where the data has none, or only reading shows it."""

    @property
    @abstractmethod
    def sha256(self) -> str:
        """A hash of the contents."""

    @property
    @abstractmethod
    def prepared_sha256(self) -> str:
        """A hash of what a network sees."""

    @property
    @abstractmethod
    def sample_bytes(self) -> int:
        """What one prepared sample takes in memory, the largest where they differ."""

    def together(self, most: int = 8) -> int:
        """How many samples to read in a batch: ``most``, or as many as have room where they are large."""
        return min(most, max(READ_BYTES // max(self.sample_bytes, 1), 1))

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the samples, where each has one."""
        return ()

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The heights and widths that images are prepared in; none where the samples are arrays as they come."""
        return ()

    def at(self, *sizes: Size) -> Samples:
        """The same samples prepared in other heights and widths, in turn; arrays stay as they are."""
        return self

    @abstractmethod
    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Reads the samples in order.

        Args:
            size: samples in a batch; the last one, and one that lost unusable samples, hold fewer.
            limit: how many samples are looked at.

        Raises:
            InputError: more than 5 % of the samples looked at are unusable.
        """
