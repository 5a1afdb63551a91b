"""A task: what the outputs of a network mean, and so how an engine is held against the original.

Everything else in RadixRT knows tensors, their shapes and their types. A new task is a module and a line in
:mod:`radixrt.validate.tasks.choose`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch
from radixrt.export.graph.output_kind import Head, OutputKind
from radixrt.export.source.outputs import is_flat
from radixrt.validate.schema import Accuracy, Finding, Parity

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
        kind: what the main output's numbers are, where it is a head of classes.
    """

    shapes: Mapping[str, Sequence[object]]
    end: str = ""
    floats: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    labelled: bool = False
    kind: OutputKind = OutputKind.LOGITS

    @property
    def main(self) -> str:
        """The main output's name."""
        return next(iter(self.shapes))

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
class OutputsJudged:
    """What the outputs of an engine, or of its stand-in, say.

    ``accuracy`` is absent where labels do not fit the head, the weights are random, or the task knows none.
    """

    parity: Parity
    accuracy: Accuracy | None
    findings: list[Finding]


class Judge(ABC):
    """Gathers, batch by batch, how an engine's outputs stand to the original's."""

    @abstractmethod
    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        """Adds a batch.

        Args:
            reference: the original's outputs that both have, the main one first.
            engine: the engine's, by the original's names.
            batch: the samples that both were given, with their names and labels.

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


class Task(ABC):
    """What the outputs of a network mean.

    Attributes:
        name: as ``--task`` takes it.
        has_accuracy: answers are right or wrong, so the limits on top-1 can be judged.
    """

    name: ClassVar[str]
    has_accuracy: ClassVar[bool] = False

    @abstractmethod
    def refusal(self, network: Interface) -> str | None:
        """Why the outputs of a network cannot be this task's; None where they can."""

    @abstractmethod
    def judge(self, network: Interface, *, measure_accuracy: bool, max_drop_points: float) -> Judge:
        """What holds an engine against the original.

        Args:
            network: the original.
            measure_accuracy: labels fit the head and the weights are trained.
            max_drop_points: what the conclusion on accuracy speaks about.
        """

    @abstractmethod
    def aims(self, network: Interface) -> tuple[str, ...]:
        """The outputs whose error recovery, sensitivity and mixed precision make small."""
