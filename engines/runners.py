"""Any number of images through a network that takes only so many at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from radixrt.engines.session import Array, Session
from radixrt.export.spec import BatchSpec

Logits = NDArray[np.float32]
Runner = Callable[[NDArray[np.float32]], Logits]
"""From normalised images, float32 (N, C, H, W), to logits (N, classes)."""

Outputs = dict[str, Array]
OutputsRunner = Callable[[NDArray[np.float32]], Outputs]
"""From the same images to every output by name, (N, ...) each."""


def in_batches(run: OutputsRunner, batch: BatchSpec) -> OutputsRunner:
    """The same call for any N: in parts of at most ``batch.max`` images, the last filled up to ``batch.min``."""

    def run_all(images: NDArray[np.float32]) -> Outputs:
        if not len(images):
            # Only a run tells the shapes, and whether the engine takes such images at all.
            found = run(np.zeros((batch.min, *images.shape[1:]), images.dtype))
            return {name: array[:0] for name, array in found.items()}
        parts: list[Outputs] = []
        for start in range(0, len(images), batch.max):
            part = images[start : start + batch.max]
            missing = max(0, batch.min - len(part))
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            found = run(np.ascontiguousarray(part))
            parts.append({name: array[: len(array) - missing] for name, array in found.items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return run_all


def logits_of(run: OutputsRunner, name: str | None = None) -> Runner:
    """The same call for one output: the first, which is the logits of every graph of ours, or the one named."""
    return lambda images: (found := run(images))[next(iter(found)) if name is None else name]


def session_outputs(session: Session, batch: BatchSpec) -> OutputsRunner:
    """A call from images (N, C, H, W) to every output for any N, in batches that the engine takes."""
    feed = session.inputs[0].name
    return in_batches(lambda images: session.run({feed: images}), batch)


def session_runner(session: Session, batch: BatchSpec, name: str | None = None) -> Runner:
    """The same, to logits (N, classes): the engine's first output, or the one named."""
    return logits_of(session_outputs(session, batch), name)
