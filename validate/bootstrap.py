"""What can be concluded from a figure of both networks on the same images: a paired bootstrap over images.

Images are drawn with replacement, always for both networks alike, so that what makes an image hard cancels out. A
figure that is no mean over images (mIoU, mean average precision) is computed anew from each draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.validate.measure.statistics import MOST_IMAGES, PairedTable, difference_interval, images_needed, settled
from radixrt.validate.quality import Metric, MetricSpec

RESAMPLES = 1000
BOOTSTRAP, SCORE = "paired bootstrap over images", "Tango's score interval"

Both = Callable[[NDArray[np.intp]], tuple[float, float]]
"""The figure of the original and of the engine over some images, by their places; one may stand there twice."""


def measured(spec: MetricSpec, both: Both, images: int, limit: float | None, *, resamples: int = RESAMPLES) -> Metric:
    """A figure with its interval.

    Args:
        spec: which figure.
        both: computes it.
        images: how many there are.
        limit: the drop that the conclusion speaks about, in points; None makes no conclusion.
        resamples: how often images are drawn.
    """
    from scipy.stats import bootstrap

    reference, engine = both(np.arange(images))
    interval = None
    if images > 1:

        def change(chosen: NDArray[np.intp]) -> float:
            before, after = both(np.asarray(chosen))
            return after - before

        drawn = bootstrap(
            (np.arange(images),), change, vectorized=False, n_resamples=resamples, method="percentile", random_state=0
        ).bootstrap_distribution
        # A draw without a single image of some class may have no figure.
        known = drawn[np.isfinite(drawn)]
        if len(known):
            low, high = np.percentile(known, [2.5, 97.5])
            interval = (float(low) * spec.points, float(high) * spec.points)
    found = _metric(spec, images, (reference, engine), interval, BOOTSTRAP)
    return concluded(found, limit)


def measured_shares(spec: MetricSpec, right: tuple[NDArray[Any], NDArray[Any]], limit: float | None) -> Metric:
    """A figure that is the share of right answers, (images,) booleans of the original and of the engine."""
    table = PairedTable.count(*right)
    low, high = difference_interval(table)
    shares = float(right[0].mean()), float(right[1].mean())
    found = _metric(spec, table.images, shares, (low * spec.points, high * spec.points), SCORE)
    needed = None
    if limit is not None and not settled((low, high), limit / spec.points):
        needed = images_needed(table, limit / spec.points)
    return concluded(found, limit, needed)


def concluded(metric: Metric, limit: float | None, needed: int | None = None) -> Metric:
    """The same figure with a sentence on what so many images show about a largest allowed drop, in its points."""
    if limit is None or metric.delta_ci95_points is None or metric.drop_ci95_points is None:
        return metric
    (low, high), (least, most) = metric.delta_ci95_points, metric.drop_ci95_points
    unit, spelt = (" points", "+.2f") if metric.share else ("", "+.4g")
    span = f"{low:{spelt}} and {high:{spelt}}{unit} (95 %)"
    seen = f"{metric.samples} images put the change of {metric.title} between {span}"
    if most <= limit:
        return metric.model_copy(update={"conclusion": f"{seen}: the drop is within {limit:g}{unit}."})
    if least > limit:
        return metric.model_copy(update={"conclusion": f"{seen}: the drop exceeds {limit:g}{unit}."})
    needed = needed or _needed(metric, limit)
    enough = (
        f"about {needed} images would be enough if they stay alike"
        if needed is not None
        else "no practical number would be enough, because the observed drop is the limit itself"
    )
    text = f"{seen}: not enough images to tell whether the drop is within {limit:g}{unit}; {enough}."
    return metric.model_copy(update={"conclusion": text, "images_needed": needed})


def _needed(metric: Metric, limit: float) -> int | None:
    """How many images would put the whole interval on one side: it narrows with the root of their number."""
    assert metric.drop_ci95_points is not None
    least, most = metric.drop_ci95_points
    gap = abs(limit - metric.drop_points)
    reach = (most if metric.drop_points <= limit else least) - metric.drop_points
    images = metric.samples * (abs(reach) / gap) ** 2 if gap else math.inf
    return math.ceil(images) if images <= MOST_IMAGES else None


def _metric(
    spec: MetricSpec, images: int, both: tuple[float, float], interval: tuple[float, float] | None, how: str
) -> Metric:
    reference, engine = both
    return Metric(
        name=spec.name,
        title=spec.title,
        share=spec.share,
        higher_is_better=spec.higher_is_better,
        by_labels=spec.by_labels,
        samples=images,
        reference=reference,
        engine=engine,
        delta_points=(engine - reference) * spec.points,
        delta_ci95_points=interval,
        interval=how,
    )
