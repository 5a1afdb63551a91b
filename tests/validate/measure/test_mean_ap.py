"""Mean average precision is COCO's, also over a resampling, whose figure must be that of the images it names."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from radixrt.calibration.data.boxes import Boxes
from radixrt.validate.measure.mean_ap import MeanAP

NOTHING = Boxes(np.zeros((0, 4)), np.zeros(0, dtype=int), np.zeros(0))


def scenes(count: int = 40) -> tuple[list[Boxes], list[Boxes]]:
    random = np.random.default_rng(3)
    truth, found = [], []
    for _ in range(count):
        objects = int(random.integers(0, 5))
        corners, labels = random.uniform(0, 100, (objects, 2)), random.integers(1, 4, objects)
        boxes = np.concatenate([corners, corners + random.uniform(8, 30, (objects, 2))], axis=1)
        truth.append(Boxes(boxes, labels, crowd=random.random(objects) < 0.1))
        kept = random.random(objects) < 0.9
        guessed = np.concatenate([boxes[kept] + random.normal(0, 1.5, (kept.sum(), 4)), [[5, 5, 30, 40]]])
        found.append(Boxes(guessed, np.append(labels[kept], 1), random.random(len(guessed))))
    return truth, found


def test_it_is_torchmetrics_figure() -> None:
    truth, found = scenes()
    # Its own default has these thresholds of recall in float32, a little beside COCO's.
    recalls = np.linspace(0, 1, 101).tolist()
    ours = MeanAP(truth, found)
    theirs = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True, rec_thresholds=recalls)
    theirs.update(
        [
            {"boxes": torch.tensor(f.boxes), "scores": torch.tensor(f.scores), "labels": torch.tensor(f.labels)}
            for f in found
        ],
        [
            {"boxes": torch.tensor(t.boxes), "labels": torch.tensor(t.labels), "iscrowd": torch.tensor(t.crowd).int()}
            for t in truth
        ],
    )
    expected = theirs.compute()
    assert ours.value == pytest.approx(float(expected["map"]), abs=1e-6)
    assert ours.at_50 == pytest.approx(float(expected["map_50"]), abs=1e-6)
    assert list(ours.by_category.values()) == pytest.approx(expected["map_per_class"].tolist(), abs=1e-6)


def test_a_resampling_is_those_images_judged_anew() -> None:
    truth, found = scenes()
    whole = MeanAP(truth, found)
    assert whole.over(np.arange(40)) == whole.value
    drawn = np.random.default_rng(0).integers(0, 40, 40)
    anew = MeanAP([truth[i] for i in drawn], [found[i] for i in drawn])
    assert whole.over(drawn) == pytest.approx(anew.value, abs=1e-9)


def test_nothing_found_and_nothing_finite_count_as_nothing() -> None:
    truth, found = scenes(6)
    wild = [Boxes(f.boxes * np.nan, f.labels, f.scores) for f in found]
    assert MeanAP(truth, wild).value == 0
    assert MeanAP(truth, [NOTHING] * 6).value == 0
    assert MeanAP([NOTHING] * 2, [NOTHING] * 2).value == 0
