"""A detector's engine is judged by COCO's mAP, whatever order its boxes come in, and both sets of boxes are shown."""

from __future__ import annotations

import numpy as np

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.boxes import Boxes
from radixrt.calibration.data.targets import TargetKind
from radixrt.validate.tasks.base import Interface, Outputs, Trust
from radixrt.validate.tasks.choose import choose

SHAPES = {"boxes": ("N", 2, 4), "scores": ("N", 2), "labels": ("N", 2)}
DETECTOR = Interface(SHAPES, "Concat", ("boxes", "scores"), labels=("nut", "bolt"), targets=TargetKind.BOXES)
CORNERS = np.array([[[4, 4, 20, 24], [30, 8, 50, 40]]] * 3, np.float32)


def outputs(boxes: np.ndarray, scores: tuple[float, float] = (0.9, 0.8)) -> Outputs:
    count = len(boxes)
    return {
        "boxes": boxes.astype(np.float32),
        "scores": np.tile(np.array(scores, np.float32), (count, 1)),
        "labels": np.tile(np.array([3, 8]), (count, 1)),
    }


def test_boxes_are_judged_by_what_was_labelled() -> None:
    chosen = choose(None, DETECTOR)
    assert chosen.task.name == "detect" and chosen.task.aims(DETECTOR) == ("scores",)
    judge = chosen.task.judge(DETECTOR, Trust(True, 1.0))
    truth = tuple(Boxes(corners, np.array([0, 1]), ids=(3, 8)) for corners in CORNERS)
    batch = Batch({"x": np.zeros((3, 3, 64, 64), np.float32)}, truth, ("a", "b", "c"))
    moved = CORNERS.copy()
    moved[1, 0] += 30  # the engine loses one box of the second image
    judge.add(outputs(CORNERS), outputs(moved), batch)
    found = judge.result()
    by_name = {metric.name: metric for metric in found.metrics}
    assert by_name["map"].reference == 1.0 and 0.5 < by_name["map"].engine < 1.0
    assert by_name["agreement"].engine == by_name["map"].engine
    assert [example.image for example in found.examples] == ["b"]
    assert [panel.title for panel in found.examples[0].panels] == ["label", "original", "engine"]
    assert found.tables[0].rows[0][0] == "nut"
    assert "the file's ids" in found.findings[0].text


def test_an_original_that_finds_nothing_is_a_doubt() -> None:
    judge = choose(None, DETECTOR).task.judge(DETECTOR, Trust(True, 1.0))
    truth = tuple(Boxes(corners + 500, np.array([0, 1]), ids=(3, 8)) for corners in CORNERS)
    batch = Batch({"x": np.zeros((3, 3, 64, 64), np.float32)}, truth, ("a", "b", "c"))
    judge.add(outputs(CORNERS), outputs(CORNERS), batch)
    assert [finding.severity for finding in judge.result().findings] == ["doubt"]
