"""A task: what the outputs of a network mean, and so how an engine is held against the original.

Everything else in RadixRT knows tensors, their shapes and their types. A new task is a module and a line in
:mod:`radixrt.validate.tasks.choose`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.export.graph.output_kind import Head, OutputKind
from radixrt.export.source.outputs import is_flat
from radixrt.validate.quality import Accuracy, DetailTable, Metric, MetricSpec
from radixrt.validate.schema import Finding, Parity

Outputs = Mapping[str, NDArray[Any]]
"""Every output of one batch by name, (N, ...) each."""


@dataclass(frozen=True)
class Interface:
    """What a network puts out, and what the data says of it.

    Attributes:
        shapes: of each output by name, the main one first; a free batch stands as text or None.
        end: the operator that makes the main output, such as ``Gemm``; empty where that says nothing.
        floats: the outputs that are floating point.
        labels: the names of the head's classes; empty where nobody knows them.
        labelled: the test's labels are classes of this head.
        targets: what the data's images are labelled with, if anything.
        data_classes: the names of the data's own classes, which need not be the head's.
        kind: what the main output's numbers are, where it is a head of classes.
        characters: what the classes of a reader stand for; empty where nobody says.
    """

    shapes: Mapping[str, Sequence[object]]
    end: str = ""
    floats: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    labelled: bool = False
    targets: TargetKind | None = None
    data_classes: tuple[str, ...] = ()
    kind: OutputKind = OutputKind.LOGITS
    characters: tuple[str, ...] = ()

    @property
    def main(self) -> str:
        """The main output's name."""
        return next(iter(self.shapes))

    @property
    def real(self) -> list[Sequence[object]]:
        """The shapes of the outputs that are floating point."""
        return [self.shapes[name] for name in self.floats]

    @property
    def classes(self) -> int:
        """How many values the main output has for each image, where it is N x C or N x C x 1 x 1; else 0."""
        shape = self.shapes[self.main]
        return shape[1] if is_flat(shape) and isinstance(shape[1], int) else 0

    @property
    def head(self) -> Head:
        """The main output as a head of classes."""
        return Head(self.labels, self.kind)

    @property
    def described(self) -> str:
        """The main output in words."""
        return f"{self.main} ({' x '.join(['N', *map(str, self.shapes[self.main][1:])])})"


@dataclass(frozen=True)
class Panel:
    """One picture of an example: ``data`` is a PNG file in base64."""

    title: str
    data: str


@dataclass(frozen=True)
class Example:
    """An image on which engine and original differ, as the page shows it: pictures side by side, and a sentence."""

    image: str
    text: str
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True)
class OutputsJudged:
    """What the outputs of an engine, or of its stand-in, say.

    ``metrics`` are absent where labels do not fit the task, the weights are random, or the task has none; the first is
    the one that a drop is judged by. ``accuracy`` says more of classes.
    """

    parity: Parity
    accuracy: Accuracy | None = None
    findings: list[Finding] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    tables: list[DetailTable] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)


class Judge(ABC):
    """Gathers, batch by batch, how an engine's outputs stand to the original's."""

    @abstractmethod
    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        """Adds a batch.

        Args:
            reference: the original's outputs that both have, the main one first.
            engine: the engine's, by the original's names.
            batch: the samples that both were given, with their names and targets.

        Raises:
            InputError: the shapes do not fit, or the original's output is not finite.
        """

    @abstractmethod
    def result(self) -> OutputsJudged:
        """What everything added says.

        Raises:
            InputError: nothing was added.
        """

    def marked(self) -> tuple[NDArray[np.bool_], list[int]] | None:
        """Which of the engine's answers are right, and each image's label; None where a task has no such thing."""
        return None


@dataclass(frozen=True)
class Trust:
    """What a judge may conclude.

    Attributes:
        labelled: the images' targets are such as the task is judged by, and the weights are trained.
        max_drop_points: the drop that the conclusion speaks about, in points; None where nobody set one.
    """

    labelled: bool
    max_drop_points: float | None


class Task(ABC):
    """What the outputs of a network mean.

    Attributes:
        name: as ``--task`` takes it.
        reads: the kinds of labels that its metrics can be computed from; a table is read as the first of them.
        metrics: its figures, the one that a drop is judged by first; none where nothing but parity is known.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[TargetKind, ...]] = ()
    metrics: ClassVar[tuple[MetricSpec, ...]] = ()

    @property
    def identity(self) -> str:
        """What decides what it says of the same outputs and labels, for a record of it."""
        return self.name

    @abstractmethod
    def refusal(self, network: Interface) -> str | None:
        """Why the outputs of a network cannot be this task's; None where they can."""

    @abstractmethod
    def judge(self, network: Interface, trust: Trust) -> Judge:
        """What holds an engine against the original.

        Args:
            network: the original.
            trust: what may be concluded.
        """

    def check(self, network: Interface, images: Samples) -> None:  # noqa: B027 - most tasks can use any
        """Looks at the targets of images before anything long starts.

        Raises:
            InputError: the task cannot be judged by one of them.
        """

    def truth(self, network: Interface, outputs: Outputs) -> tuple[Target, ...] | None:
        """The original's own answers as targets, one for each image, where there are no labels; None if it has none."""
        return None

    def classes_of(self, network: Interface) -> tuple[str, ...]:
        """What each class of the main output stands for, where the task knows; else empty."""
        return ()

    def judged_by(self, network: Interface) -> bool:
        """Whether the data's labels are such as its metrics are computed from."""
        return network.targets in self.reads

    def needs(self, network: Interface) -> tuple[str, ...]:
        """The graph's outputs that its judge is given, the main one first."""
        return tuple(network.shapes)

    def aims(self, network: Interface) -> tuple[str, ...]:
        """The outputs whose error recovery, sensitivity and mixed precision make small."""
        return (network.main,)
