"""``multilabel``: a yes or no for each label. Metric: mean average precision, F1, by torchmetrics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Samples
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.engines.bundle.answers import sureness
from radixrt.errors import InputError
from radixrt.validate.bootstrap import measured
from radixrt.validate.quality import DetailTable, MetricSpec
from radixrt.validate.schema import Parity
from radixrt.validate.tasks.base import Example, Interface, Judge, Outputs, OutputsJudged, Task, Trust
from radixrt.validate.tasks.gathered import GatheredJudge, Rows
from radixrt.validate.tasks.pictures import panels_of

MAP, F1 = MetricSpec("map", "mAP"), MetricSpec("f1", "F1")
AGREEMENT = MetricSpec("agreement", "labels alike", by_labels=False)
RESAMPLES = 300  # average precision sorts all images for each label
MOST_EXAMPLES = 8
Bools = NDArray[np.bool_]


class Multilabel(Task):
    """N x C, logits or what a sigmoid made of them; from a CSV file with several labels a row."""

    name = "multilabel"
    reads = (TargetKind.LABELS,)
    metrics = (MAP, F1, AGREEMENT)

    def refusal(self, network: Interface) -> str | None:
        return None if network.classes else f"its main output is {network.described}, not N x labels"

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Labels(network, trust)

    def check(self, network: Interface, images: Samples) -> None:
        for name, target in zip(images.names, images.targets or (), strict=False):
            if target and max(target) >= network.classes:
                raise InputError(
                    f"{name} has the label {max(target)}, and the network has {network.classes} (0 to "
                    f"{network.classes - 1}): name the labels in the order of its outputs, or number them"
                )

    def truth(self, network: Interface, outputs: Outputs) -> tuple[Target, ...]:
        yes = sureness(outputs[network.main], network.kind.value) > 0.5
        return tuple(tuple(np.flatnonzero(row).tolist()) for row in yes)


class _Labels(GatheredJudge):
    def concluded(self, close: Parity, before: Rows, after: Rows) -> OutputsJudged:
        sure = [sureness(rows, self.network.kind.value).astype(np.float32) for rows in (before, after)]
        yes = [rows > 0.5 for rows in sure]
        alike = (yes[0] == yes[1]).mean(axis=1)
        agreement = measured(AGREEMENT, lambda chosen: (1.0, float(alike[chosen].mean())), len(alike), None)
        if not self.targets:
            return OutputsJudged(close, metrics=[agreement], examples=self._examples(yes, alike, None))
        truth = np.zeros(before.shape, np.int64)
        for row, target in zip(truth, self.targets, strict=True):
            row[list(target)] = 1
        of_map, of_f1 = _both(sure, truth, _mean_average_precision), _both(sure, truth, _f1)
        return OutputsJudged(
            close,
            metrics=[
                measured(MAP, of_map, len(alike), self.trust.max_drop_points, resamples=RESAMPLES),
                measured(F1, of_f1, len(alike), None, resamples=RESAMPLES),
                agreement,
            ],
            tables=[self._by_label(sure, truth)],
            examples=self._examples(yes, alike, truth.astype(bool)),
        )

    def _by_label(self, sure: list[Rows], truth: NDArray[np.int64]) -> DetailTable:
        precisions = [_average_precisions(rows, truth) for rows in sure]
        held = np.flatnonzero(truth.any(axis=0)).tolist()
        order = sorted(held, key=lambda label: precisions[1][label] - precisions[0][label])
        return DetailTable(
            title="Average precision of each label",
            note="The largest loss first. Labels that no image has are left out.",
            head=["label", "images", "original", "engine", "change (points)"],
            rows=[
                [
                    self.network.head.name(label),
                    str(int(truth[:, label].sum())),
                    *(f"{100 * one[label]:.2f} %" for one in precisions),
                    f"{100 * (precisions[1][label] - precisions[0][label]):+.2f}",
                ]
                for label in order
            ],
            numbers=[1, 2, 3, 4],
        )

    def _examples(self, yes: list[Bools], alike: Rows, truth: Bools | None) -> list[Example]:
        worst = [int(i) for i in np.argsort(alike, kind="stable")[:MOST_EXAMPLES] if alike[i] < 1]
        found = []
        for i in worst:
            said = [("original", yes[0][i]), ("engine", yes[1][i])]
            if truth is not None:
                said.insert(0, ("label", truth[i]))
            text = "; ".join(f"{who} {self._named(row)}" for who, row in said)
            found.append(Example(self.names[i], text, panels_of([("image", self.pictures[i])])))
        return found

    def _named(self, row: Bools) -> str:
        return ", ".join(self.network.head.name(int(i)) for i in np.flatnonzero(row)) or "none"


def _both(
    sure: list[Rows], truth: NDArray[np.int64], figure: Callable[[Rows, NDArray[np.int64]], float]
) -> Callable[[NDArray[np.intp]], tuple[float, float]]:
    return lambda chosen: (figure(sure[0][chosen], truth[chosen]), figure(sure[1][chosen], truth[chosen]))


def _average_precisions(sure: Rows, truth: NDArray[np.int64]) -> NDArray[np.float64]:
    import torch
    from torchmetrics.functional.classification import binary_average_precision, multilabel_average_precision

    scores, labels = torch.from_numpy(np.ascontiguousarray(sure)), torch.from_numpy(np.ascontiguousarray(truth))
    if truth.shape[1] == 1:
        return np.asarray([float(binary_average_precision(scores[:, 0], labels[:, 0]))])
    found = multilabel_average_precision(scores, labels, truth.shape[1], average="none")
    return np.asarray(found.numpy(), np.float64)


def _mean_average_precision(sure: Rows, truth: NDArray[np.int64]) -> float:
    held = truth.any(axis=0)
    return float(_average_precisions(sure[:, held], truth[:, held]).mean()) if held.any() else float("nan")


def _f1(sure: Rows, truth: NDArray[np.int64]) -> float:
    import torch
    from torchmetrics.functional.classification import binary_f1_score, multilabel_f1_score

    held = truth.any(axis=0)
    if not held.any():
        return float("nan")
    scores, labels = torch.from_numpy(sure[:, held]), torch.from_numpy(truth[:, held])
    if held.sum() == 1:
        return float(binary_f1_score(scores[:, 0], labels[:, 0]))
    return float(multilabel_f1_score(scores, labels, int(held.sum())))
