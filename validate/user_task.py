"""A metric or a decoder of the user's own, around a task: it runs as the user's code, and its errors are one sentence.

A metric is a function of the original's answers, the engine's and the labels, to a number. A decoder turns every output
of a batch, by name, into what the task reads: an array, or arrays by name, a row for each image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.targets import Target
from radixrt.errors import InputError
from radixrt.export.graph.output_kind import OutputKind
from radixrt.export.source.user_code import cause, code_sha256, load_function
from radixrt.validate.bootstrap import concluded, measured
from radixrt.validate.measure.parity import ParityAccumulator
from radixrt.validate.quality import Metric, MetricSpec
from radixrt.validate.tasks.base import Interface, Judge, Outputs, OutputsJudged, Task, Trust

LARGEST_ANSWERS = 2_000_000_000
RESAMPLES, SECONDS = 300, 30.0
Answers = Any
"""An array (N, ...) where there is one output, else arrays by name; or whatever a decoder gives."""


@dataclass(frozen=True)
class UserMetric:
    """A figure that the user's function computes."""

    reference: str
    spec: MetricSpec
    function: Callable[[Answers, Answers, Any], Any]

    @classmethod
    def read(cls, text: str) -> UserMetric:
        """Reads ``file.py:function``; a minus before it, or before the function's name, says that lower is better.

        Raises:
            InputError: there is no such function.
        """
        where, _, name = text.rpartition(":")
        lower = text.startswith("-") or name.startswith("-")
        reference = f"{where.removeprefix('-')}:{name.removeprefix('-')}"
        function = load_function(reference, "that judges answers")
        title = name.removeprefix("-")
        return cls(reference, MetricSpec(title, title, share=False, higher_is_better=not lower), function)

    def number(self, reference: Answers, engine: Answers, labels: Any) -> float:
        """What the function says.

        Raises:
            InputError: it raises, or gives something else than a finite number.
        """
        value = self.call(reference, engine, labels)
        if not math.isfinite(value):
            raise InputError(f"the metric {self.reference} gives {value}, which is no figure to judge by")
        return value

    def call(self, reference: Answers, engine: Answers, labels: Any) -> float:
        """What the function gives, NaN included.

        Raises:
            InputError: it raises, or gives no number.
        """
        try:
            return float(self.function(reference, engine, labels))
        except Exception as error:  # the function is the user's
            raise InputError(f"the metric {self.reference} fails: {cause(error)}") from error


@dataclass(frozen=True)
class UserDecoder:
    """What turns outputs into what a task reads."""

    reference: str
    function: Callable[[Mapping[str, NDArray[Any]]], Any]

    @classmethod
    def read(cls, text: str) -> UserDecoder:
        """Reads ``file.py:function``.

        Raises:
            InputError: there is no such function.
        """
        return cls(text, load_function(text, "that decodes outputs"))

    def decoded(self, outputs: Outputs, main: str) -> Outputs:
        """What the function makes of a batch.

        Raises:
            InputError: it raises, or gives no row for each image.
        """
        images = len(next(iter(outputs.values())))
        try:
            found = self.function(dict(outputs))
        except Exception as error:  # the function is the user's
            raise InputError(f"the decoder {self.reference} fails: {cause(error)}") from error
        named = found if isinstance(found, Mapping) else {main: found}
        arrays = {str(name): np.asarray(array) for name, array in named.items()}
        for name, array in arrays.items():
            if array.dtype == object or array.ndim < 1 or len(array) != images:
                raise InputError(
                    f"the decoder {self.reference} gives {name} of shape {array.shape} and type {array.dtype} for "
                    f"{images} images: give an array with a row for each"
                )
        return arrays


def decoded_interface(decoder: UserDecoder, network: Interface, outputs: Outputs) -> Interface:
    """The network as a task sees it, whose outputs are decoded, by those of one batch.

    Raises:
        InputError: the decoder fails.
    """
    found = decoder.decoded(outputs, network.main)
    first = next(iter(found.values()))
    unit = np.issubdtype(first.dtype, np.floating) and bool(((first >= 0) & (first <= 1)).all())
    return replace(
        network,
        shapes={name: ("batch", *array.shape[1:]) for name, array in found.items()},
        floats=tuple(name for name, array in found.items() if np.issubdtype(array.dtype, np.floating)),
        end="",
        kind=OutputKind.SCORES if unit else OutputKind.LOGITS,
    )


class UserTask(Task):
    """A task whose outputs the user decodes, or whose answers the user judges, or both."""

    def __init__(
        self, task: Task, original: Interface, metric: UserMetric | None = None, decoder: UserDecoder | None = None
    ) -> None:
        self._task, self._original, self.metric, self.decoder = task, original, metric, decoder
        own = () if metric is None else (metric.spec,)
        # What a task says of itself is a constant of its class; here the user's figure comes first.
        self.name, self.reads, self.metrics = task.name, task.reads, (*own, *task.metrics)  # type: ignore[misc]

    @property
    def identity(self) -> str:
        named = [one.reference for one in (self.metric, self.decoder) if one is not None]
        return " ".join([self._task.identity, *named, *map(code_sha256, named)])

    def refusal(self, network: Interface) -> str | None:
        return self._task.refusal(network)

    def judge(self, network: Interface, trust: Trust) -> Judge:
        # A limit on the drop is one on the user's figure.
        limit = None if self.metric is not None else trust.max_drop_points
        return _UserJudge(self, self._task.judge(network, replace(trust, max_drop_points=limit)), network, trust)

    def check(self, network: Interface, images: Samples) -> None:
        self._task.check(network, images)

    def judged_by(self, network: Interface) -> bool:
        return self._task.judged_by(network)

    def truth(self, network: Interface, outputs: Outputs) -> tuple[Target, ...] | None:
        seen = outputs if self.decoder is None else self.decoder.decoded(outputs, network.main)
        found = self._task.truth(network, seen)
        # A metric of the user's may do without labels.
        return () if found is None and self.metric is not None else found

    def needs(self, network: Interface) -> tuple[str, ...]:
        return tuple(self._original.shapes)

    def aims(self, network: Interface) -> tuple[str, ...]:
        return self._task.aims(network) if self.decoder is None else self._original.floats

    def try_out(self, network: Interface, outputs: Outputs, batch: Batch) -> None:
        """Calls the metric once, before anything long starts; a figure that few images do not have is no fault yet.

        Raises:
            InputError: it raises.
        """
        if self.metric is None:
            return
        seen = outputs if self.decoder is None else self.decoder.decoded(outputs, network.main)
        given = _given(seen, np.arange(len(batch.names)))
        labels = labels_for(batch.targets) if batch.targets is not None and network.targets is not None else None
        self.metric.call(given, given, labels)


@dataclass
class _Kept:
    """Answers of all images, in parts."""

    parts: list[Outputs] = field(default_factory=list)
    size: int = 0

    def add(self, outputs: Outputs) -> None:
        self.size += sum(array.nbytes for array in outputs.values())
        if self.size > LARGEST_ANSWERS:
            raise InputError(
                "a metric of your own is given the answers to all images at once, and they take more than "
                f"{LARGEST_ANSWERS / 1e9:g} GB: judge by fewer with --test-images, or decode them to less"
            )
        self.parts.append(outputs)

    def all(self) -> Outputs:
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


class _UserJudge(Judge):
    def __init__(self, task: UserTask, inner: Judge, network: Interface, trust: Trust) -> None:
        self._task, self._inner, self._network, self._trust = task, inner, network, trust
        self._close: ParityAccumulator | None = None
        self._before, self._after = _Kept(), _Kept()
        self._targets: list[Target] = []
        self._images = 0

    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        own, theirs = reference, engine
        if self._task.decoder is not None:
            # Parity is of what the networks put out; all else is of what was made of it.
            self._close = self._close or ParityAccumulator(main=next(iter(reference)), classify=False)
            self._close.add_outputs(reference, engine, batch.names)
            main = self._network.main
            own, theirs = (self._task.decoder.decoded(outputs, main) for outputs in (reference, engine))
        self._inner.add(own, theirs, batch)
        self._images += len(batch.names)
        if self._task.metric is not None:
            self._before.add(own)
            self._after.add(theirs)
            if self._network.targets is not None or self._trust.labelled:
                self._targets += batch.targets or ()

    def result(self) -> OutputsJudged:
        found = self._inner.result()
        if self._close is not None:
            found = replace(found, parity=self._close.result())
        if (metric := self._task.metric) is None:
            return found
        return replace(found, metrics=[self._measured(metric), *found.metrics])

    def marked(self) -> tuple[NDArray[np.bool_], list[int]] | None:
        return self._inner.marked()

    def _measured(self, metric: UserMetric) -> Metric:
        before, after = self._before.all(), self._after.all()
        labels = labels_for(self._targets) if len(self._targets) == self._images else None
        everything = np.arange(self._images)
        started = time.monotonic()
        number = metric.number(_given(before, everything), _given(after, everything), labels)
        original = metric.number(_given(before, everything), _given(before, everything), labels)
        seconds = max((time.monotonic() - started) / 2, 1e-6)
        # The user's function may be a slow one: no interval is worth more than half a minute.
        resamples = min(RESAMPLES, int(SECONDS / (2 * seconds)))

        def both(chosen: NDArray[np.intp]) -> tuple[float, float]:
            if len(chosen) == self._images and (chosen == everything).all():
                return original, number
            own, theirs, shown = _given(before, chosen), _given(after, chosen), _chosen(labels, chosen)
            try:
                return metric.number(own, own, shown), metric.number(own, theirs, shown)
            except InputError:
                return math.nan, math.nan  # a draw may lack what the figure is of

        found = measured(metric.spec, both, self._images, None, resamples=max(resamples, 2))
        if resamples < RESAMPLES / 10:
            text = "none: the metric takes too long to draw images for it"
            found = found.model_copy(update={"delta_ci95_points": None, "interval": text})
        return concluded(found, self._trust.max_drop_points)


def labels_for(targets: Sequence[Target]) -> Any:
    """Targets as a metric gets them: an array where they are of one shape, else a list."""
    first = targets[0] if targets else None
    if isinstance(first, np.ndarray | int | float):
        same = all(np.shape(target) == np.shape(first) for target in targets)
        return np.stack([np.asarray(target) for target in targets]) if same else list(targets)
    if isinstance(first, tuple) and first and isinstance(first[0], float):
        return np.asarray(targets)
    return list(targets)


def _given(outputs: Outputs, chosen: NDArray[np.intp]) -> Answers:
    """The answers to some images: an array where there is one output."""
    found = {name: array[chosen] for name, array in outputs.items()}
    return next(iter(found.values())) if len(found) == 1 else found


def _chosen(labels: Any, chosen: NDArray[np.intp]) -> Any:
    if labels is None or isinstance(labels, np.ndarray):
        return None if labels is None else labels[chosen]
    return [labels[i] for i in chosen.tolist()]
