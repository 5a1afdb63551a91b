"""Samples that stay in memory once they were read, for whoever goes over them again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.targets import Target
from radixrt.export.sides import Size


@dataclass
class Room:
    """Bytes that prepared samples may still take; shared by several of them."""

    left: int


@dataclass(frozen=True)
class Remembered(Samples):
    """The same samples; a pass over them that was read to its end, and for which there was room, is not read again."""

    samples: Samples
    room: Room
    _passes: dict[tuple[int, int | None], list[Batch]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def names(self) -> tuple[str, ...]:
        return self.samples.names

    @property
    def targets(self) -> tuple[Target, ...] | None:
        return self.samples.targets

    @property
    def sha256(self) -> str:
        return self.samples.sha256

    @property
    def prepared_sha256(self) -> str:
        return self.samples.prepared_sha256

    @property
    def sample_bytes(self) -> int:
        return self.samples.sample_bytes

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.samples.paths

    @property
    def sizes(self) -> tuple[Size, ...]:
        return self.samples.sizes

    def at(self, *sizes: Size) -> Samples:
        return self if sizes == self.sizes else self.samples.at(*sizes)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        limit = len(self) if limit is None else min(limit, len(self))
        if (size, limit) in self._passes:
            yield from self._passes[size, limit]
            return
        kept: list[Batch] | None = []
        held = 0
        for batch in self.samples.batches(size, limit):
            held += sum(array.nbytes for array in batch.inputs.values())
            if kept is not None and held <= self.room.left:
                kept.append(batch)
            else:
                kept = None
            yield batch
        if kept is not None and held <= self.room.left:
            self.room.left -= held
            self._passes[size, limit] = kept
