"""A list of image files that is read in batches: only the current batch is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.boxes import Boxes
from radixrt.calibration.data.masks import read_mask
from radixrt.calibration.data.pixels import ImageUnusableError, open_image, preprocess_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.targets import Target
from radixrt.errors import InputError
from radixrt.export.feed import IMAGE_INPUT
from radixrt.export.sides import Size, spelt

#: The share of unusable images that a build tolerates.
MAX_UNUSABLE = 0.05


@dataclass(frozen=True)
class Entry:
    """An image file: ``name`` is what reports call it, ``target`` what it is labelled with."""

    name: str
    path: Path
    target: Target | None = None


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and why."""

    name: str
    reason: str


class ImageList(Samples):
    """Images of one split, in a fixed order that mixes the classes, so that the first n stand for all.

    ``two_levels`` says that masks hold 255 for class 1. ``sizes`` are heights and widths that the images are prepared
    in, in turn; each batch is of one size. ``skipped`` grows while batches are read: it names every image that was
    passed over so far.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        preprocess: Preprocess,
        workers: int = 0,
        input_name: str = IMAGE_INPUT,
        *,
        two_levels: bool = False,
        sizes: Sequence[Size] = (),
    ) -> None:
        self._entries = tuple(entries)
        self._preprocess = preprocess
        self._workers = workers
        self._input = input_name
        self._two_levels = two_levels
        self._sizes = tuple(sizes)
        self._skipped: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self._entries)

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(entry.path for entry in self._entries)

    @property
    def targets(self) -> tuple[Target, ...] | None:
        """What each image is labelled with, corrupt ones included, masks as files; None where the data has none."""
        targets = tuple(entry.target for entry in self._entries if entry.target is not None)
        return targets if self._entries and len(targets) == len(self._entries) else None

    @property
    def preprocess(self) -> Preprocess:
        return self._preprocess

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(Skipped(name, reason) for name, reason in sorted(self._skipped.items()))

    def take(self, count: int) -> ImageList:
        """The first ``count`` images as a list of their own."""
        return self._of(self._entries[:count], self._sizes)

    @property
    def sizes(self) -> tuple[Size, ...]:
        return self._sizes or (self._preprocess.input_size[1:],)

    def at(self, *sizes: Size) -> ImageList:
        return self._of(self._entries, sizes)

    def _of(self, entries: Sequence[Entry], sizes: Sequence[Size]) -> ImageList:
        return ImageList(
            entries, self._preprocess, self._workers, self._input, two_levels=self._two_levels, sizes=sizes
        )

    @cached_property
    def sha256(self) -> str:
        """A hash of the files' contents, whatever their names and order; unreadable files do not count."""
        return hashlib.sha256(b"".join(sorted(_digest(entry.path) for entry in self._entries))).hexdigest()

    @property
    def prepared_sha256(self) -> str:
        """A hash of what a network sees: the files' contents, and how they are made into pixels."""
        how = self._preprocess.model_dump_json() + "".join(map(spelt, self._sizes))
        return hashlib.sha256(f"{self.sha256} {how}".encode()).hexdigest()

    @property
    def sample_bytes(self) -> int:
        pixels = max(height * width for height, width in self.sizes)
        return self._preprocess.input_size[0] * pixels * np.dtype(self._preprocess.dtype).itemsize

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Reads the images in order.

        Args:
            size: images in a batch; the last one, and one that lost unusable images, hold fewer.
            limit: how many images of the list are looked at.

        Raises:
            InputError: more than 5 % of the images looked at are unusable.
        """
        if size < 1:
            raise ValueError(f"a batch of {size} images")
        entries = self._entries if limit is None else self._entries[:limit]
        labelled = self.targets is not None
        unusable: list[Skipped] = []
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(self._workers)) if self._workers > 1 else None
            for chunk, preprocess in self._chunks(entries, size):
                decode = partial(self._decode, preprocess=preprocess)
                decoded = list(pool.map(decode, chunk) if pool else map(decode, chunk))
                good = []
                for entry, result in zip(chunk, decoded, strict=True):
                    if isinstance(result, Skipped):
                        self._skipped[entry.name] = result.reason
                        unusable.append(result)
                        _refuse_too_many(unusable, len(entries))
                    else:
                        good.append((entry, result))
                if good:
                    yield Batch(
                        inputs={self._input: np.stack([pixels for _, (pixels, _) in good])},
                        targets=tuple(target for _, (_, target) in good) if labelled else None,
                        names=tuple(entry.name for entry, _ in good),
                    )

    def _chunks(self, entries: Sequence[Entry], size: int) -> Iterator[tuple[Sequence[Entry], Preprocess]]:
        """The images of each batch, and how they are prepared: image i in size i, counted round."""
        if not self._sizes:
            for start in range(0, len(entries), size):
                yield entries[start : start + size], self._preprocess
            return
        count = len(self._sizes)
        channels = self._preprocess.input_size[0]
        prepared = [self._preprocess.model_copy(update={"input_size": (channels, *one)}) for one in self._sizes]
        for start in range(0, len(entries), size * count):
            window = entries[start : start + size * count]
            for turn, preprocess in enumerate(prepared):
                if chunk := window[turn::count]:
                    yield chunk, preprocess

    def _decode(self, entry: Entry, preprocess: Preprocess) -> tuple[npt.NDArray[Any], Target] | Skipped:
        target = entry.target
        try:
            image = open_image(entry.path, preprocess.input_size[0])
            if isinstance(target, Path):
                target = read_mask(target, preprocess, two_levels=self._two_levels)
            elif isinstance(target, Boxes):
                target = target.prepared(image.size, preprocess)
        except ImageUnusableError as error:
            return Skipped(entry.name, str(error))
        return preprocess_image(image, preprocess), target


def _digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b""


def _refuse_too_many(unusable: Sequence[Skipped], total: int) -> None:
    if len(unusable) > MAX_UNUSABLE * total:
        first = unusable[0]
        raise InputError(
            f"more than {MAX_UNUSABLE:.0%} of {total} images are unusable ({len(unusable)} so far), the first is"
            f" {first.name} ({first.reason}): mend or remove them"
        )
