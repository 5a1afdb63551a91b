"""Any number of samples through a network that takes only so many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from radixrt.engines.session import Array, Session, TensorSpec
from radixrt.errors import InputError
from radixrt.export.feed import Feed, filled, length, part
from radixrt.export.spec import BatchSpec

Logits = NDArray[np.float32]
Runner = Callable[[Feed], Logits]
"""From inputs by name, (N, ...) each, to logits (N, classes)."""

Outputs = dict[str, Array]
OutputsRunner = Callable[[Feed], Outputs]
"""From the same inputs to every output by name, (N, ...) each."""


def in_batches(run: OutputsRunner, batch: BatchSpec) -> OutputsRunner:
    """The same call for any N: in parts of at most ``batch.max`` samples, the last filled up to ``batch.min``."""

    def run_all(feed: Feed) -> Outputs:
        count = length(feed)
        if not count:
            # Only a run tells the shapes, and whether the engine takes such inputs at all.
            found = run({name: np.zeros((batch.min, *a.shape[1:]), a.dtype) for name, a in feed.items()})
            return {name: array[:0] for name, array in found.items()}
        parts: list[Outputs] = []
        for start in range(0, count, batch.max):
            few = part(feed, start, start + batch.max)
            missing = max(0, batch.min - length(few))
            found = run(filled(few, batch.min))
            if length(few) < count or missing:
                _refuse_rowless(found, length(few) + missing)
            parts.append({name: array[: len(array) - missing] if missing else array for name, array in found.items()})
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([few[name] for few in parts]) for name in parts[0]}

    return run_all


def _refuse_rowless(outputs: Outputs, samples: int) -> None:
    """Refuses outputs that cannot be joined with those of other samples."""
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != samples:
            raise InputError(
                f"the network takes {samples} at a time, and its output {name} {array.shape} has no row for each: give "
                "it no more than that at once"
            )


def logits_of(run: OutputsRunner, name: str | None = None) -> Runner:
    """The same call for one output: the first, which is the logits of every graph of ours, or the one named."""
    return lambda feed: (found := run(feed))[next(iter(found)) if name is None else name]


def session_outputs(session: Session, batch: BatchSpec) -> OutputsRunner:
    """A call from inputs by name to every output for any N, in batches that the engine takes.

    The names are the original network's: see :func:`engine_names`.
    """

    def run(feed: Feed) -> Outputs:
        names = engine_names(feed, session.inputs)
        return session.run({names[name]: array for name, array in feed.items()})

    return in_batches(run, batch)


def engine_names(feed: Feed, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """What the engine calls each input of a feed: the same, or, where another tool renamed it, the one of its kind.

    Raises:
        InputError: an input of either has no counterpart.
    """
    names = {name: name for name in feed if any(spec.name == name for spec in inputs)}
    left = [spec for spec in inputs if spec.name not in names]
    for name, array in feed.items():
        if name not in names:
            alike = [s for s in left if _alike(s, array)] if len(feed) > 1 else left
            if len(alike) == 1:
                names[name] = alike[0].name
                left.remove(alike[0])
    if left or len(names) != len(feed):
        raise InputError(f"the engine takes inputs {[s.name for s in inputs]}, not {sorted(feed)}: name each of them")
    return names


def _alike(spec: TensorSpec, array: Array) -> bool:
    return (
        spec.dtype == array.dtype
        and len(spec.shape) == array.ndim
        and all(want in (-1, got) for want, got in zip(spec.shape[1:], array.shape[1:], strict=True))
    )


def session_runner(session: Session, batch: BatchSpec, name: str | None = None) -> Runner:
    """The same, to logits (N, classes): the engine's first output, or the one named."""
    return logits_of(session_outputs(session, batch), name)
