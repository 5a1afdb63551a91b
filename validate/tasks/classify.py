"""``classify``: the main output holds a number for each class, the largest is the answer. Metric: top-1 and top-5."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.validate.measure.accuracy import TOP1, TOP5, accuracy, figures
from radixrt.validate.measure.findings import logit_findings
from radixrt.validate.measure.parity import ParityAccumulator, top_k
from radixrt.validate.tasks.base import Interface, Judge, Outputs, OutputsJudged, Task, Trust


class Classify(Task):
    """N x C, or N x C x 1 x 1, from a class folder or a CSV of labels."""

    name = "classify"
    reads = (TargetKind.CLASSES,)
    metrics = (TOP1, TOP5)

    def refusal(self, network: Interface) -> str | None:
        if not network.classes:
            return f"its main output is {network.described}, not N x classes"
        return None

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Answers(network, trust)

    def truth(self, network: Interface, outputs: Outputs) -> tuple[Target, ...]:
        return tuple(_rows(outputs[network.main]).argmax(axis=1).tolist())

    def judged_by(self, network: Interface) -> bool:
        return network.labelled


class _Answers(Judge):
    def __init__(self, network: Interface, trust: Trust) -> None:
        self._network, self._trust = network, trust
        self._close = ParityAccumulator(network.head, network.main)
        self._expected: list[NDArray[Any]] = []
        self._found: list[NDArray[Any]] = []
        self._names: list[str] = []
        self._labels: list[int] = []

    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        for name, truth in reference.items():
            if name == self._network.main:
                expected, found = _rows(truth), _rows(engine[name])
                self._close.add(expected, found, batch.names)
                self._expected.append(expected)
                self._found.append(found)
            else:
                self._close.add_output(name, truth, engine[name], batch.names)
        self._names += batch.names
        self._labels += batch.targets or ()

    def result(self) -> OutputsJudged:
        close, head = self._close.result(), self._network.head
        expected, found = np.concatenate(self._expected), np.concatenate(self._found)
        findings = logit_findings(expected, found, head)
        if not self._trust.labelled:
            return OutputsJudged(close, findings=findings)
        limit = self._trust.max_drop_points or 0.0
        right = accuracy(expected, found, self._labels, names=self._names, head=head, max_drop_points=limit)
        return OutputsJudged(close, right, findings, figures(right))

    def marked(self) -> tuple[NDArray[np.bool_], list[int]] | None:
        found = np.concatenate(self._found)
        right = top_k(found, 1)[:, 0] == np.asarray(self._labels)
        return np.asarray(np.isfinite(found).all(axis=1) & right), self._labels


def _rows(logits: NDArray[Any]) -> NDArray[Any]:
    """N x C x 1 x 1 as N x C."""
    return logits.reshape(logits.shape[:2])
