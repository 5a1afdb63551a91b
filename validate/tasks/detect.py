"""``detect``: boxes, scores and labels after the network's own post-processing. Metric: COCO's mean average precision.

What the numbers of a box mean is found out on the original's own answers; see
:mod:`radixrt.validate.answers.detections`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.boxes import Boxes
from radixrt.calibration.data.targets import TargetKind
from radixrt.engines.bundle.answers import SURE, Columns
from radixrt.errors import InputError
from radixrt.validate.answers.detections import Spelling, best_spelling, rows_of
from radixrt.validate.bootstrap import measured
from radixrt.validate.measure.mean_ap import MeanAP
from radixrt.validate.measure.parity import ParityAccumulator
from radixrt.validate.quality import DetailTable, Metric, MetricSpec
from radixrt.validate.schema import Finding
from radixrt.validate.tasks.base import Example, Interface, Judge, Outputs, OutputsJudged, Task, Trust
from radixrt.validate.tasks.pictures import boxed, image_of, panel, pixels_of

MAP, MAP50 = MetricSpec("map", "mAP"), MetricSpec("map50", "mAP at IoU 0.5")
AGREEMENT = MetricSpec("agreement", "mAP against the original's boxes", by_labels=False)
MOST_EXAMPLES = 8
IMAGES_FOR_SPELLING = 64
RESAMPLES = 300
#: Below this the original itself finds nothing that is labelled.
NOTHING_FOUND = 0.02


class Detect(Task):
    """Boxes N x K x 4, scores N x K and labels N x K, or all in one N x K x 6; from COCO's JSON."""

    name = "detect"
    reads = (TargetKind.BOXES,)
    metrics = (MAP, MAP50, AGREEMENT)

    def refusal(self, network: Interface) -> str | None:
        found = Columns.find(network.shapes, network.floats)
        return found if isinstance(found, str) else None

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Found(network, trust, _columns(network))

    def aims(self, network: Interface) -> tuple[str, ...]:
        # Boxes change places where two scores do; the scores themselves are sorted, so theirs is an error of numbers.
        columns = _columns(network)
        return (columns.joined or columns.scores,)


def _columns(network: Interface) -> Columns:
    found = Columns.find(network.shapes, network.floats)
    if isinstance(found, str):
        raise InputError(f"this network cannot detect: {found}")
    return found


class _Found(Judge):
    def __init__(self, network: Interface, trust: Trust, columns: Columns) -> None:
        self._network, self._trust, self._columns = network, trust, columns
        self._close = ParityAccumulator(main=network.main, classify=False)
        self._before: list[Boxes] = []
        self._after: list[Boxes] = []
        self._truth: list[Boxes] = []
        self._names: list[str] = []
        self._images: list[NDArray[np.uint8]] = []
        self._size = (1, 1)

    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        self._close.add_outputs(reference, engine, batch.names)
        count = len(batch.names)
        try:
            self._before += rows_of(self._columns, reference, count)
            self._after += rows_of(self._columns, engine, count)
        except ValueError as error:
            raise InputError(f"the outputs cannot be told apart by image ({error}): give --batch 1") from error
        self._truth += batch.targets if self._trust.labelled and batch.targets is not None else []
        self._names += batch.names
        image = image_of(batch, 0)
        if image is not None:
            self._size = (image.shape[2], image.shape[1])
        # Which images changed most is known at the end: photographs of 8 bit are kept until then.
        for index in range(count):
            image = image_of(batch, index) if len(self._images) < 512 else None
            if image is not None:
                self._images.append(pixels_of(image))

    def result(self) -> OutputsJudged:
        close, findings = self._close.result(), []
        categories = self._truth[0].ids if self._truth else tuple(range(_most(self._before) + 1))
        spelling = Spelling.looks(self._before)
        if self._truth:
            few = slice(IMAGES_FOR_SPELLING)
            spelling, value = best_spelling(self._before[few], self._truth[few], self._size, categories)
            if value < NOTHING_FOUND:
                findings.append(
                    Finding.doubt(
                        "the original finds nothing that is labelled",
                        f"The original's mAP is {100 * value:.2f} % on the first images, whatever its boxes are taken "
                        "for: the labels, the preprocessing or the outputs are others than they seem.",
                    )
                )
            else:
                text = f"Boxes were read as {spelling.described}, in which the original finds most of what is labelled."
                findings.append(Finding(severity="remark", text=text))
        before, after = (
            [spelling.read(one, self._size, categories) for one in rows] for rows in (self._before, self._after)
        )
        again = MeanAP([one.surer_than(SURE) for one in before], after)
        metrics = [measured(AGREEMENT, lambda chosen: (1.0, again.over(chosen)), len(after), None, resamples=RESAMPLES)]
        tables = []
        if self._truth:
            both = MeanAP(self._truth, before), MeanAP(self._truth, after)
            metrics = [*self._metrics(both), *metrics]
            tables = [self._by_category(both)]
        return OutputsJudged(
            close, findings=findings, metrics=metrics, tables=tables, examples=self._examples(before, after)
        )

    def _metrics(self, both: tuple[MeanAP, MeanAP]) -> list[Metric]:
        before, after = both
        return [
            measured(
                MAP,
                lambda chosen: (before.over(chosen), after.over(chosen)),
                before.images,
                self._trust.max_drop_points,
                resamples=RESAMPLES,
            ),
            measured(
                MAP50,
                lambda chosen: (before.over(chosen, at_50=True), after.over(chosen, at_50=True)),
                before.images,
                None,
                resamples=RESAMPLES,
            ),
        ]

    def _by_category(self, both: tuple[MeanAP, MeanAP]) -> DetailTable:
        means = [one.by_category for one in both]
        counts = np.bincount(np.concatenate([one.labels for one in self._truth]).astype(int), minlength=1)
        rows = []
        for category, before in means[0].items():
            after = means[1].get(category) or 0.0
            if before is not None:
                change = 100 * (after - before)
                figures = (f"{100 * before:.2f} %", f"{100 * after:.2f} %", f"{change:+.2f}")
                rows.append((change, [self._network.head.name(category), f"{counts[category]:,}", *figures]))
        return DetailTable(
            title="mAP of each category",
            note="The largest loss first.",
            head=["category", "boxes", "original", "engine", "change (points)"],
            rows=[row for _, row in sorted(rows, key=lambda one: one[0])],
            numbers=[1, 2, 3, 4],
        )

    def _examples(self, before: list[Boxes], after: list[Boxes]) -> list[Example]:
        """The images whose sure boxes changed most."""
        kept = len(self._images)
        pairs = list(zip(before[:kept], after[:kept], strict=True))
        alike = [MeanAP([a.surer_than(SURE)], [b]).value if len(a.surer_than(SURE)) else 1.0 for a, b in pairs]
        examples = []
        for index in np.argsort(alike, kind="stable")[:MOST_EXAMPLES].tolist():
            if alike[index] >= 1 - 1e-9:
                break
            original, engine = (one.surer_than(SURE) for one in pairs[index])
            panels = [panel("original", boxed(self._images[index], original.boxes, original.labels))]
            panels.append(panel("engine", boxed(self._images[index], engine.boxes, engine.labels)))
            if self._truth:
                truth = self._truth[index]
                panels.insert(0, panel("label", boxed(self._images[index], truth.boxes, truth.labels)))
            found = f"{len(original)} boxes of the original, {len(engine)} of the engine"
            text = f"{found}; mAP between them {100 * alike[index]:.1f} %"
            examples.append(Example(self._names[index], text, tuple(panels)))
        return examples


def _most(rows: list[Boxes]) -> int:
    return max((int(one.labels.max()) for one in rows if len(one)), default=0)
