"""``regress``: numbers. Metric: mean absolute error, its root mean square, R2, by torchmetrics, in the labels' unit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Samples
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.errors import InputError
from radixrt.export.source.outputs import is_flat
from radixrt.validate.bootstrap import measured
from radixrt.validate.quality import DetailTable, MetricSpec
from radixrt.validate.schema import Parity
from radixrt.validate.tasks.base import Example, Interface, Judge, Outputs, OutputsJudged, Task, Trust
from radixrt.validate.tasks.gathered import GatheredJudge, Rows
from radixrt.validate.tasks.pictures import panels_of

MAE = MetricSpec("mae", "MAE", share=False, higher_is_better=False)
RMSE = MetricSpec("rmse", "RMSE", share=False, higher_is_better=False)
R2 = MetricSpec("r2", "R2", share=False)
MOST_ROWS, MOST_EXAMPLES = 20, 8


class Regress(Task):
    """N, or N x K; from a CSV file with K numbers a row."""

    name = "regress"
    reads = (TargetKind.NUMBERS,)
    metrics = (MAE, RMSE, R2)

    def refusal(self, network: Interface) -> str | None:
        shape = network.shapes[network.main]
        if network.main not in network.floats or not (len(shape) == 1 or is_flat(shape)):
            return f"its main output is {network.described}, not N or N x numbers"
        return None

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Numbers(network, trust)

    def check(self, network: Interface, images: Samples) -> None:
        width = network.classes or 1
        for name, target in zip(images.names, images.targets or (), strict=False):
            if len(target) != width:
                raise InputError(
                    f"{name} is labelled with {len(target)} numbers, and the network answers with {width}: give the "
                    "CSV file a column for each"
                )

    def truth(self, network: Interface, outputs: Outputs) -> tuple[Target, ...]:
        rows = outputs[network.main]
        return tuple(tuple(row.tolist()) for row in rows.reshape(len(rows), -1))


class _Numbers(GatheredJudge):
    def concluded(self, close: Parity, before: Rows, after: Rows) -> OutputsJudged:
        moved = np.abs(after - before).max(axis=1)
        worst = [int(i) for i in np.argsort(-moved, kind="stable")[:MOST_ROWS] if moved[i] > 0]
        rows = [
            [self.names[i], *([_said(self.targets[i])] if self.targets else []), _said(before[i]), _said(after[i])]
            for i in worst
        ]
        label = ["label"] if self.targets else []
        table = DetailTable(
            title="The numbers that moved most",
            head=["image", *label, "original", "engine"],
            rows=rows,
            numbers=list(range(1, 3 + len(label))),
        )
        examples = [
            Example(
                self.names[i],
                ", ".join(f"{who} {said}" for who, said in zip(table.head[1:], row[1:], strict=True)),
                panels_of([("image", self.pictures[i])]),
            )
            for i, row in list(zip(worst, rows, strict=True))[:MOST_EXAMPLES]
        ]
        if not self.targets:
            return OutputsJudged(close, tables=[table], examples=examples)
        truth = np.asarray(self.targets, np.float32)

        def both(figure: Callable[[Rows, Rows], float]) -> Callable[[NDArray[np.intp]], tuple[float, float]]:
            return lambda chosen: (figure(before[chosen], truth[chosen]), figure(after[chosen], truth[chosen]))

        limit, images = self.trust.max_drop_points, len(truth)
        metrics = [measured(MAE, both(_mae), images, limit), measured(RMSE, both(_rmse), images, None)]
        if images > 1 and np.ptp(truth, axis=0).all():
            metrics.append(measured(R2, both(_r2), images, None))
        return OutputsJudged(close, metrics=metrics, tables=[table], examples=examples)


def _mae(found: Rows, truth: Rows) -> float:
    import torch
    from torchmetrics.functional.regression import mean_absolute_error

    return float(mean_absolute_error(torch.from_numpy(found), torch.from_numpy(truth)))


def _rmse(found: Rows, truth: Rows) -> float:
    import torch
    from torchmetrics.functional.regression import mean_squared_error

    return float(mean_squared_error(torch.from_numpy(found), torch.from_numpy(truth), squared=False))


def _r2(found: Rows, truth: Rows) -> float:
    import torch
    from torchmetrics.functional.regression import r2_score

    if not np.ptp(truth, axis=0).all():
        return float("nan")  # a draw of images that are all labelled alike has no variance to explain
    return float(r2_score(torch.from_numpy(found), torch.from_numpy(truth)))


def _said(numbers: object) -> str:
    return ", ".join(f"{number:.4g}" for number in np.asarray(numbers).ravel())
