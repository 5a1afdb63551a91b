"""Any number of images through a network that takes only so many at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from radixrt.engines.base import Session
from radixrt.export.spec import BatchSpec

Logits = NDArray[np.float32]
Runner = Callable[[NDArray[np.float32]], Logits]
"""From normalised images, float32 (N, C, H, W), to logits (N, classes)."""


def in_batches(run: Runner, batch: BatchSpec) -> Runner:
    """The same call for any N: in parts of at most ``batch.max`` images, the last filled up to ``batch.min``."""

    def run_all(images: NDArray[np.float32]) -> Logits:
        parts = []
        for start in range(0, len(images), batch.max):
            part = images[start : start + batch.max]
            missing = max(0, batch.min - len(part))
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            logits = run(np.ascontiguousarray(part))
            parts.append(logits[: len(logits) - missing])
        return np.concatenate(parts)

    return run_all


def session_runner(session: Session, batch: BatchSpec) -> Runner:
    """A call from images (N, C, H, W) to logits (N, classes) for any N, in batches that the engine takes."""
    feed, answer = session.inputs[0].name, session.outputs[0].name
    return in_batches(lambda images: session.run({feed: images})[answer], batch)
