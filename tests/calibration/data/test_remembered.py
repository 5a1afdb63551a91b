"""Samples that are gone over again must be the same, read once, and never more than there is room for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.remembered import Remembered, Room


class Counted(Samples):
    """Ten samples of one float each, which count how often they are read; ``limit`` is asked as it comes."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 10

    names = tuple("abcdefghij")
    sample_bytes = 4
    targets = None
    sha256 = prepared_sha256 = "ten"

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        for start in range(0, limit or 10, size):
            names = self.names[start : start + size]
            self.read += len(names)
            yield Batch({"x": np.arange(start, start + len(names), dtype=np.float32)}, None, names)


def values(samples: Samples, size: int, limit: int | None = None) -> list[list[float]]:
    return [batch.inputs["x"].tolist() for batch in samples.batches(size, limit)]


def test_a_whole_pass_is_read_once_and_other_passes_are_their_own() -> None:
    plain, counted = Counted(), Counted()
    kept = Remembered(counted, Room(1000))
    for _ in range(3):
        assert values(kept, 4) == values(plain, 4)
    assert counted.read == 10
    assert values(kept, 4, 10) == values(plain, 4) and counted.read == 10, "all of them are the whole"
    assert values(kept, 2, 5) == values(plain, 2, 5) and counted.read > 10


def test_a_pass_that_was_broken_off_or_has_no_room_is_read_again() -> None:
    counted, room = Counted(), Room(39)
    kept = Remembered(counted, room)
    next(kept.batches(4))
    assert values(kept, 4) == values(Counted(), 4)
    assert values(kept, 4) == values(Counted(), 4)
    assert counted.read == 4 + 10 + 10 and room.left == 39
    other = Remembered(Counted(), Room(40))
    values(other, 4)
    assert other.room.left == 0
