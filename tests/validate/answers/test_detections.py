"""The outputs of detectors as their exporters write them: which is which, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from radixrt.calibration.data.boxes import Boxes
from radixrt.engines.bundle.answers import Columns
from radixrt.validate.answers.detections import CORNERS, COUNTINGS, Spelling, best_spelling, rows_of

SIZE = (100, 80)


@pytest.mark.parametrize(
    ("shapes", "integers", "expected"),
    [
        (
            {"boxes": ("N", 16, 4), "scores": ("N", 16), "labels": ("N", 16)},
            ("labels",),
            Columns("boxes", "scores", "labels"),
        ),
        # torchvision's detectors: one image, as many rows as were found, labels before scores.
        ({"a": ("K", 4), "b": ("K",), "c": ("K",)}, ("b",), Columns("a", "c", "b")),
        # TensorRT's EfficientNMS.
        (
            {"num_dets": ("N", 1), "det_boxes": ("N", 9, 4), "det_scores": ("N", 9), "det_classes": ("N", 9)},
            ("num_dets", "det_classes"),
            Columns("det_boxes", "det_scores", "det_classes", count="num_dets"),
        ),
        # TensorFlow's detection API writes labels as floats.
        (
            {"detection_boxes": ("N", 9, 4), "detection_classes": ("N", 9), "detection_scores": ("N", 9)},
            (),
            Columns("detection_boxes", "detection_scores", "detection_classes"),
        ),
        ({"output0": (1, 300, 6)}, (), Columns(joined="output0")),
    ],
)
def test_outputs_are_recognised(
    shapes: Mapping[str, Sequence[object]], integers: Sequence[str], expected: Columns
) -> None:
    found = Columns.find(shapes, [name for name in shapes if name not in integers])
    assert vars(found) == vars(expected)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"logits": ("N", 10)}, "no output of boxes"),
        ({"output0": ("N", 84, 8400)}, "no output of boxes"),
        ({"boxes": ("N", 9, 4), "logits": ("N", 9, 80)}, "no output of scores"),
    ],
)
def test_others_are_refused_with_the_reason(shapes: Mapping[str, Sequence[object]], said: str) -> None:
    found = Columns.find(shapes, list(shapes))
    assert isinstance(found, str) and said in found


def test_rows_are_read_by_image() -> None:
    joined = np.arange(24, dtype=np.float32).reshape(2, 2, 6)
    first, second = rows_of(Columns(joined="x"), {"x": joined}, 2)
    assert first.boxes.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]] and first.labels.tolist() == [5, 11]
    assert second.scores is not None and second.scores.tolist() == [16, 22]
    counted = {"b": np.zeros((2, 3, 4)), "s": np.ones((2, 3)), "l": np.ones((2, 3)), "n": np.array([[1], [0]])}
    assert [len(rows) for rows in rows_of(Columns("b", "s", "l", count="n"), counted, 2)] == [1, 0]
    alone = rows_of(Columns("b", "s", "l"), {"b": np.zeros((5, 4)), "s": np.ones(5), "l": np.ones(5)}, 1)
    assert [len(rows) for rows in alone] == [5]
    with pytest.raises(ValueError, match="1 images, and 3"):
        rows_of(Columns("b", "s", "l"), {"b": np.zeros((5, 4)), "s": np.ones(5), "l": np.ones(5)}, 3)


def written(truth: Boxes, spelling: Spelling, categories: list[int]) -> Boxes:
    """What a network that spells so would answer."""
    x0, y0, x1, y1 = truth.boxes.T
    numbers: dict[str, tuple[NDArray[Any], ...]] = {
        "left top right bottom": (x0, y0, x1, y1),
        "top left bottom right": (y0, x0, y1, x1),
        "left top width height": (x0, y0, x1 - x0, y1 - y0),
        "centre width height": ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0),
    }
    boxes = np.stack(numbers[spelling.corners], axis=1)
    if spelling.unit:
        sides = SIZE[::-1] if spelling.corners == "top left bottom right" else SIZE
        boxes = boxes / np.tile(sides, 2)
    ids = np.array(categories)[truth.labels]
    labels = {COUNTINGS[0]: ids, COUNTINGS[1]: truth.labels, COUNTINGS[2]: truth.labels + 1}[spelling.counting]
    return Boxes(boxes, labels, np.linspace(0.9, 0.8, len(truth)))


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("corners", CORNERS)
def test_the_spelling_is_found_out(corners: Any, counting: Any, unit: bool) -> None:
    random, categories = np.random.default_rng(1), [2, 7, 9]
    truth = []
    for _ in range(6):
        at = random.uniform(5, 40, (3, 2))
        sides = random.uniform(8, 35, (3, 2))
        truth.append(Boxes(np.concatenate([at, at + sides], axis=1), random.integers(0, 3, 3)))
    spelling = Spelling(corners, unit, counting)
    rows = [written(one, spelling, categories) for one in truth]
    found, value = best_spelling(rows, truth, SIZE, categories)
    assert found == spelling
    assert value == pytest.approx(1.0)
