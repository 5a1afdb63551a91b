"""``segment``: the main output holds a number for each class and pixel. Metric: mIoU, pixel accuracy.

A class that neither the masks nor the answers hold is left out of the mean, as torchmetrics does; so are pixels without
a class. The confusion of each image is torchmetrics' own; mIoU is of all images' pixels together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.masks import IGNORED, check_masks
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.engines.bundle.answers import class_maps
from radixrt.errors import InputError
from radixrt.validate.bootstrap import measured
from radixrt.validate.measure.parity import ParityAccumulator
from radixrt.validate.quality import DetailTable, Metric, MetricSpec
from radixrt.validate.tasks.base import Example, Interface, Judge, Outputs, OutputsJudged, Task, Trust
from radixrt.validate.tasks.pictures import difference, image_of, painted, panel, pixels_of

MIOU, ACCURACY = MetricSpec("miou", "mIoU"), MetricSpec("pixel_accuracy", "pixel accuracy")
AGREEMENT = MetricSpec("agreement", "pixels alike", by_labels=False)
MOST_EXAMPLES = 8
Places: TypeAlias = NDArray[np.intp]
_Stacked: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


class Segment(Task):
    """N x C x H x W, or N x 1 x H x W of one class against the rest, or N x H x W of classes; from masks."""

    name = "segment"
    reads = (TargetKind.MASKS,)
    metrics = (MIOU, ACCURACY, AGREEMENT)

    def refusal(self, network: Interface) -> str | None:
        shape = network.shapes[network.main]
        maps = len(shape) == 4 or (len(shape) == 3 and network.main not in network.floats)
        if not maps or any(size == 1 for size in shape[-2:]):
            return f"its main output is {network.described}, not N x classes x height x width"
        return None

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Masks(network, trust)

    def check(self, network: Interface, images: Samples) -> None:
        if images.targets is not None:
            check_masks(list(zip(images.paths, images.targets, strict=True)), _classes(network))

    def truth(self, network: Interface, outputs: Outputs) -> tuple[Target, ...]:
        return tuple(class_maps(outputs[network.main], network.kind.value).astype(np.uint8))


def _classes(network: Interface) -> int:
    """How many classes the head has; 0 where only its answers are known."""
    shape = network.shapes[network.main]
    size = shape[1] if len(shape) == 4 else 0
    return max(size, 2) if isinstance(size, int) and size else 0


@dataclass
class _Counts:
    """Pixels of each image by class, (images, classes): in both truth and answer, in the truth, in the answer."""

    both: list[NDArray[np.int64]] = field(default_factory=list)
    truth: list[NDArray[np.int64]] = field(default_factory=list)
    answer: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, answer: NDArray[np.int64], mask: NDArray[np.uint8], classes: int) -> None:
        import torch
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        found = multiclass_confusion_matrix(
            torch.from_numpy(answer), torch.from_numpy(mask.astype(np.int64)), classes, ignore_index=IGNORED
        ).numpy()
        self.both.append(found.diagonal().copy())
        self.truth.append(found.sum(axis=1))
        self.answer.append(found.sum(axis=0))

    def stacked(self) -> _Stacked:
        return np.stack(self.both), np.stack(self.truth), np.stack(self.answer)


class _Masks(Judge):
    def __init__(self, network: Interface, trust: Trust) -> None:
        self._network, self._trust = network, trust
        self._close = ParityAccumulator(main=network.main, classify=False)
        self._counts = _Counts(), _Counts()
        self._alike: list[float] = []
        self._names: list[str] = []
        self._worst: list[tuple[float, _Shown]] = []
        self._classes = _classes(network)

    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        self._close.add_outputs(reference, engine, batch.names)
        main, kind = self._network.main, self._network.kind.value
        before = class_maps(reference[main], kind)
        after = class_maps(np.nan_to_num(engine[main]), kind)
        masks = batch.targets if self._trust.labelled and batch.targets is not None else [None] * len(before)
        self._classes = self._classes or int(max(before.max(), after.max())) + 1
        for i, mask in enumerate(masks):
            own, theirs = before[i], after[i]
            if mask is not None:
                own, theirs = _as_large(own, mask), _as_large(theirs, mask)
                for counts, answer in zip(self._counts, (own, theirs), strict=True):
                    counts.add(answer, mask, self._classes)
            changed = own != theirs
            self._alike.append(1.0 - float(changed.mean()))
            self._names.append(batch.names[i])
            if changed.any():
                shown = _Shown(batch.names[i], image_of(batch, i), mask, own, theirs)
                self._worst = sorted([*self._worst, (self._alike[-1], shown)], key=lambda w: w[0])[:MOST_EXAMPLES]

    def result(self) -> OutputsJudged:
        close, alike = self._close.result(), np.asarray(self._alike)
        agreement = measured(AGREEMENT, lambda chosen: (1.0, float(alike[chosen].mean())), len(alike), None)
        examples = [shown.example(share) for share, shown in self._worst]
        if not self._counts[0].both:
            return OutputsJudged(close, metrics=[agreement], examples=examples)
        before, after = (counts.stacked() for counts in self._counts)

        def of(spec: MetricSpec, figure: Callable[[_Stacked, Places], float], limit: float | None = None) -> Metric:
            return measured(spec, lambda chosen: (figure(before, chosen), figure(after, chosen)), len(alike), limit)

        metrics = [of(MIOU, _miou, self._trust.max_drop_points), of(ACCURACY, _pixel_accuracy), agreement]
        return OutputsJudged(close, metrics=metrics, tables=[self._by_class(before, after)], examples=examples)

    def _by_class(self, before: _Stacked, after: _Stacked) -> DetailTable:
        everything = np.arange(len(self._names))
        ious = _ious(before, everything), _ious(after, everything)
        pixels = before[1].sum(axis=0)
        held = np.flatnonzero(np.isfinite(ious[0]) | np.isfinite(ious[1])).tolist()
        shown = sorted(held, key=lambda c: np.nan_to_num(_change(ious, c)))
        return DetailTable(
            title="IoU of each class",
            note="The largest loss first. A class of few pixels moves far by chance.",
            head=["class", "pixels", "original", "engine", "change (points)"],
            rows=[
                [
                    self._network.head.name(c),
                    f"{pixels[c]:,}",
                    *("" if np.isnan(iou[c]) else f"{100 * iou[c]:.2f} %" for iou in ious),
                    "" if np.isnan(_change(ious, c)) else f"{100 * _change(ious, c):+.2f}",
                ]
                for c in shown
            ],
            numbers=[1, 2, 3, 4],
        )


@dataclass(frozen=True)
class _Shown:
    """What an example is painted from: a prepared image (C, H, W) and its mask, if any, and both class maps (H, W)."""

    name: str
    image: NDArray[np.float32] | None
    mask: NDArray[np.uint8] | None
    original: NDArray[np.int64]
    engine: NDArray[np.int64]

    def example(self, alike: float) -> Example:
        changed = self.original != self.engine
        photograph = None if self.image is None else pixels_of(self.image)
        panels = [] if photograph is None else [panel("image", photograph, smooth=True)]
        if self.mask is not None:
            panels.append(panel("label", painted(self.mask, IGNORED)))
        panels += [panel("original", painted(self.original)), panel("engine", painted(self.engine))]
        if photograph is not None and changed.shape == photograph.shape[:2]:
            panels.append(panel("difference", difference(photograph, changed)))
        return Example(self.name, f"{100 * (1 - alike):.2f} % of the pixels changed", tuple(panels))


def _as_large(answer: NDArray[np.int64], mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """A class map of the mask's size: one that is smaller by a whole factor is enlarged.

    Raises:
        InputError: its size is another.
    """
    if answer.shape == mask.shape:
        return answer
    down, across = mask.shape[0] / answer.shape[0], mask.shape[1] / answer.shape[1]
    if down != int(down) or across != int(across):
        raise InputError(
            f"the network answers with {answer.shape[0]} x {answer.shape[1]} pixels for an image of "
            f"{mask.shape[0]} x {mask.shape[1]}: the task segment needs as many, or fewer by a whole factor"
        )
    return answer.repeat(int(down), axis=0).repeat(int(across), axis=1)


def _ious(stacked: _Stacked, chosen: Places) -> NDArray[np.float64]:
    """The IoU of each class over some images; NaN where neither holds it."""
    both, truth, answer = (part[chosen].sum(axis=0) for part in stacked)
    union = truth + answer - both
    return np.asarray(np.divide(both, union, out=np.full(len(union), np.nan), where=union > 0), np.float64)


def _miou(stacked: _Stacked, chosen: Places) -> float:
    ious = _ious(stacked, chosen)
    return float(ious[np.isfinite(ious)].mean()) if np.isfinite(ious).any() else float("nan")


def _pixel_accuracy(stacked: _Stacked, chosen: Places) -> float:
    both, truth, _ = (part[chosen].sum() for part in stacked)
    return float(both / truth) if truth else float("nan")


def _change(ious: tuple[NDArray[np.float64], NDArray[np.float64]], index: int) -> float:
    return float(ious[1][index] - ious[0][index])
