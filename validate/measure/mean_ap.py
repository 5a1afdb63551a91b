"""COCO's mean average precision of boxes, over the test images or over a resampling of them.

Matching and averaging are faster-coco-eval's; nothing is measured by this project's own rules. Its per-image matches
do not depend on other images, so a bootstrap over images averages them anew and matches nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.boxes import Boxes


class MeanAP:
    """How well boxes were found.

    Args:
        truth: what is labelled, by image.
        found: what a network gave, in the same order.
    """

    def __init__(self, truth: Sequence[Boxes], found: Sequence[Boxes]) -> None:
        if len(truth) != len(found):
            raise ValueError(f"{len(truth)} images are labelled and {len(found)} were answered")
        self._truth, self._found = truth, [boxes.finite for boxes in found]

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self._truth)

    @cached_property
    def categories(self) -> list[int]:
        """Those that are labelled somewhere, or found somewhere, in order."""
        everything = [boxes.labels for boxes in (*self._truth, *self._found)]
        return [int(label) for label in np.unique(np.concatenate(everything))] if everything else []

    @cached_property
    def value(self) -> float:
        """The mean over categories and IoU of 0.5 to 0.95, a share of 1; 0 where nothing is labelled."""
        return _mean(self._precision(None))

    @property
    def at_50(self) -> float:
        """The same at an IoU of 0.5 alone."""
        return _mean(self._precision(None)[:1])

    @property
    def by_category(self) -> dict[int, float | None]:
        """The mean of each category; None where it is labelled nowhere."""
        table = self._precision(None)
        means = [table[:, :, index] for index in range(len(self.categories))]
        labelled = [bool((mean > -1).any()) for mean in means]
        return {
            category: _mean(mean) if known else None
            for category, mean, known in zip(self.categories, means, labelled, strict=True)
        }

    def over(self, images: NDArray[np.integer[Any]], *, at_50: bool = False) -> float:
        """The value over these images, by index, some of which may stand there several times."""
        return _mean(self._precision(images)[: 1 if at_50 else None])

    def _precision(self, images: NDArray[np.integer[Any]] | None) -> NDArray[np.float64]:
        """Precision by IoU, recall and category; -1 where a category is labelled nowhere."""
        from faster_coco_eval import faster_eval_api_cpp

        if not self.categories or not any(len(boxes) for boxes in self._truth):
            return np.zeros((0, 0, 0))
        params, matches = self._matches
        if images is not None:
            matches = [row[index] for row in matches for index in images]
        else:
            matches = [one for row in matches for one in row]
        accumulated: Mapping[str, Any] = faster_eval_api_cpp.COCOevalAccumulate(params, matches)
        return np.asarray(accumulated["precision"], dtype=np.float64)[:, :, :, 0, -1]

    @cached_property
    def _matches(self) -> tuple[Any, list[list[Any]]]:
        """The library's parameters, and its matches by category and image."""
        from faster_coco_eval import COCO
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster

        labelled = [one for image, boxes in enumerate(self._truth) for one in _annotations(image, boxes)]
        found = [one for image, boxes in enumerate(self._found) for one in _annotations(image, boxes)]
        images = [{"id": image} for image in range(self.images)]
        categories = [{"id": category, "name": str(category)} for category in self.categories]
        truth = COCO({"images": images, "categories": categories, "annotations": _numbered(labelled)})
        answers = COCO({"images": images, "categories": categories, "annotations": _numbered(found)})
        judge = COCOeval_faster(truth, answers, "bbox", print_function=lambda *_: None, separate_eval=True)
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], judge.params.areaRngLbl[:1]
        judge.params.maxDets = [100]
        judge.evaluate()
        # It keeps the matches of category after category, and in each of image after image.
        matches = judge._evalImgs_cpp
        rows = [matches[start : start + self.images] for start in range(0, len(matches), self.images)]
        return judge._paramsEval, rows


def _annotations(image: int, boxes: Boxes) -> list[dict[str, Any]]:
    left, top, right, bottom = np.asarray(boxes.boxes, dtype=np.float64).reshape(-1, 4).T
    sizes = np.stack([left, top, right - left, bottom - top], axis=1)
    crowd = boxes.crowd if boxes.crowd is not None else np.zeros(len(boxes), dtype=bool)
    scores = boxes.scores if boxes.scores is not None else np.ones(len(boxes))
    return [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": int(many),
            "score": float(score),
        }
        for box, label, many, score in zip(sizes, boxes.labels, crowd, scores, strict=True)
    ]


def _numbered(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)]


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else 0.0
