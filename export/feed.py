"""What a network is fed: its inputs by name, with a row in each for every sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Feed = Mapping[str, Array]
"""Every input of one batch by name, (N, ...) each: an image is the one input of most networks."""

IMAGE_INPUT = "input"
"""What the one input of a network of images is called where its file does not name it."""


def length(feed: Feed) -> int:
    """How many samples a feed holds."""
    return len(next(iter(feed.values())))


def part(feed: Feed, start: int, stop: int) -> dict[str, Array]:
    """The samples from ``start`` up to ``stop``, contiguous in memory."""
    return {name: np.ascontiguousarray(array[start:stop]) for name, array in feed.items()}


def alike(feeds: Iterable[Feed]) -> Iterator[Feed]:
    """Those feeds whose samples have the shapes of the first: only such can be joined."""
    first = None
    for feed in feeds:
        found = [array.shape[1:] for array in feed.values()]
        first = first or found
        if found == first:
            yield feed


def joined(feeds: Iterable[Feed]) -> dict[str, Array]:
    """All samples of several feeds of the same inputs in one."""
    several: Sequence[Feed] = list(feeds)
    return {name: np.concatenate([feed[name] for feed in several]) for name in several[0]}


def filled(feed: Feed, count: int) -> Feed:
    """The same with the last sample repeated, where there are fewer than ``count``."""
    missing = count - length(feed)
    if missing <= 0:
        return feed
    return {name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for name, array in feed.items()}


def repeated(feed: Feed, count: int) -> dict[str, Array]:
    """Exactly ``count`` samples: the first ones, again and again where there are fewer."""
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in feed.items()}


def shapes(feed: Feed) -> str:
    """The shapes of a feed for a sentence, such as ``image 1x3x224x224, meta 1x4``."""
    return ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in feed.items())
