"""What an engine is timed against beside the original: ``torch.compile``, and engines of earlier bundles.

Both are asked for by name, because compiling takes minutes and an earlier bundle must be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.manifest import MANIFEST_NAME
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec
from radixrt.files import sha256_of

COMPILE = "compile"


@dataclass(frozen=True)
class Rivals:
    """Which runners take part in the timing, and at which batch sizes.

    Attributes:
        names: ``compile``, or paths of bundles.
        sweep: batch sizes; the engine's smallest and largest where empty.
    """

    names: tuple[str, ...] = ()
    sweep: tuple[int, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], sizes: Sequence[int]) -> Rivals:
        """Takes names and sizes as they are, each once, and refuses what cannot be.

        Raises:
            InputError: a size is below 1, or a path is no bundle whose files are as its manifest says.
        """
        for name in names:
            if name != COMPILE:
                Bundle.read(Path(name))
        if any(size < 1 for size in sizes):
            given = ",".join(str(size) for size in sizes)
            raise InputError(f"the batch sweep is {given}: give sizes from 1 up, such as 1,2,4,8")
        return cls(tuple(dict.fromkeys(names)), tuple(sorted(set(sizes))))

    @property
    def bundles(self) -> tuple[str, ...]:
        """The earlier bundles among them."""
        return tuple(name for name in self.names if name != COMPILE)

    def identity(self) -> tuple[str, ...]:
        """What they are, so that times of others are not taken again for these."""
        return tuple(n if n == COMPILE else f"{n} {sha256_of(Path(n) / MANIFEST_NAME)}" for n in self.names)

    def sizes(self, batch: BatchSpec) -> tuple[tuple[int, ...], list[str]]:
        """The batch sizes to time, and a sentence on those that the engine does not take."""
        fit = tuple(size for size in self.sweep if batch.min <= size <= batch.max)
        left = [str(size) for size in self.sweep if size not in fit]
        said = f"Not timed at batch {', '.join(left)}: the engine takes {batch.min} to {batch.max}."
        return fit or tuple(sorted({batch.min, batch.max})), [said] if left else []
