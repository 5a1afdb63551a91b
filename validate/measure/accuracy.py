"""Top-1 and top-5 of the reference and the engine on the same labelled images, and what can be concluded from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.errors import InputError
from radixrt.export.graph.output_kind import Head, OutputKind
from radixrt.validate.bootstrap import SCORE
from radixrt.validate.measure.parity import Floats, check_pair, top_k
from radixrt.validate.measure.statistics import PairedTable, difference_interval, images_needed, mcnemar_exact, settled
from radixrt.validate.quality import Accuracy, ClassRow, ConfusionChange, Flip, Metric, MetricSpec

LARGEST_CONFUSION = 64
CONFUSION_CHANGES = 12
TOP1, TOP5 = MetricSpec("top1", "top-1"), MetricSpec("top5", "top-5")
_UNKNOWN = Head()


def accuracy(
    reference: Floats,
    engine: Floats,
    labels: Sequence[int] | NDArray[np.integer[Any]],
    *,
    names: Sequence[str] | None = None,
    head: Head = _UNKNOWN,
    max_drop_points: float = 1.0,
) -> Accuracy:
    """Holds the engine's answers against the reference's.

    Args:
        reference: logits (images, classes).
        engine: logits of the same images; an image whose logits are not finite counts as wrong.
        labels: the true class of each image.
        names: the images' names; their positions where there are none.
        head: the classes and their numbers.
        max_drop_points: the largest allowed drop of top-1, in points (1.0 is one image in a hundred): what the
            conclusion and ``images_needed`` speak about.

    Raises:
        InputError: shapes do not fit, or a label is not a class of the head.
    """
    check_pair(reference, engine)
    truth = np.asarray(labels, dtype=np.int64)
    images, width = reference.shape
    if truth.shape != (images,):
        raise InputError(f"there are {truth.size} labels for {images} images: give one label per image")
    if truth.min() < 0 or truth.max() >= width:
        raise InputError(f"label {int(truth.max())} does not fit a head of {width} classes: check the label order")
    names = names if names is not None else [f"#{i}" for i in range(images)]
    title = [head.name(i) for i in range(width)]

    finite: NDArray[np.bool_] = np.asarray(np.isfinite(engine).all(axis=1))
    engine = np.where(finite[:, None], engine, 0.0)
    k = min(5, width)
    best_ref, best_eng = top_k(reference, k), top_k(engine, k)
    right_ref = best_ref[:, 0] == truth
    right_eng = (best_eng[:, 0] == truth) & finite
    table = PairedTable.count(right_ref, right_eng)
    interval = difference_interval(table)
    limit = max_drop_points / 100
    needed = None if settled(interval, limit) else images_needed(table, limit)
    changed = np.flatnonzero((best_ref[:, 0] != best_eng[:, 0]) | ~finite)
    margin_ref, margin_eng = _margins(reference, head.kind), np.where(finite, _margins(engine, head.kind), 0.0)
    before = _confusion(truth, best_ref[:, 0], width)
    after = _confusion(truth[finite], best_eng[finite, 0], width)
    small = width <= LARGEST_CONFUSION

    return Accuracy(
        samples=images,
        reference_top1=float(right_ref.mean()),
        engine_top1=float(right_eng.mean()),
        reference_top5=float((best_ref == truth[:, None]).any(axis=1).mean()),
        engine_top5=float(((best_eng == truth[:, None]).any(axis=1) & finite).mean()),
        delta_points=table.difference * 100,
        delta_ci95_points=(interval[0] * 100, interval[1] * 100),
        mcnemar_p=mcnemar_exact(table),
        flips=[
            Flip(
                image=names[i],
                label=title[truth[i]],
                reference=title[best_ref[i, 0]],
                engine=title[best_eng[i, 0]] if finite[i] else "not finite",
                reference_margin=float(margin_ref[i]),
                engine_margin=float(margin_eng[i]),
            )
            # The surest reference first: a flip there is a fault, one at a margin near zero a coin that fell again.
            for i in changed[np.argsort(-margin_ref[changed], kind="stable")]
        ],
        classes=[
            ClassRow(
                label=title[c],
                samples=int((truth == c).sum()),
                reference_top1=float(right_ref[truth == c].mean()),
                engine_top1=float(right_eng[truth == c].mean()),
            )
            for c in np.unique(truth)
        ],
        confusion_reference=before.tolist() if small else [],
        confusion_engine=after.tolist() if small else [],
        confusion_changes=_changes(before, after, title),
        images_needed=needed,
        conclusion=conclude(table, interval, max_drop_points, needed),
    )


def figures(found: Accuracy) -> list[Metric]:
    """Top-1, and top-5 where a head has more than five classes: in a smaller one every label is among its five best."""
    top1 = Metric(
        name=TOP1.name,
        title=TOP1.title,
        samples=found.samples,
        reference=found.reference_top1,
        engine=found.engine_top1,
        delta_points=found.delta_points,
        delta_ci95_points=found.delta_ci95_points,
        interval=SCORE,
        conclusion=found.conclusion,
        images_needed=found.images_needed,
    )
    if 0 < len(found.confusion_reference) <= 5:
        return [top1]
    top5 = Metric(
        name=TOP5.name,
        title=TOP5.title,
        samples=found.samples,
        reference=found.reference_top5,
        engine=found.engine_top5,
        delta_points=(found.engine_top5 - found.reference_top5) * TOP5.points,
    )
    return [top1, top5]


def conclude(table: PairedTable, interval: tuple[float, float], max_drop_points: float, needed: int | None) -> str:
    """One sentence on what this many images show about a largest allowed drop, in top-1 points."""
    low, high = interval[0] * 100, interval[1] * 100
    seen = f"{table.images} images put the change of top-1 between {low:+.2f} and {high:+.2f} points (95 %)"
    if interval[0] >= -max_drop_points / 100:
        return f"{seen}: the drop is within {max_drop_points:g} points."
    if interval[1] < -max_drop_points / 100:
        return f"{seen}: the drop exceeds {max_drop_points:g} points."
    enough = (
        f"about {needed} images would be enough if flips stay as frequent"
        if needed is not None
        else "no practical number would be enough, because the observed drop is the limit itself"
    )
    return f"{seen}: not enough images to tell whether the drop is within {max_drop_points:g} points; {enough}."


def _margins(logits: Floats, kind: OutputKind) -> NDArray[np.float64]:
    if logits.shape[1] == 1:
        return np.ones(len(logits))
    two = np.sort(kind.confidences(logits), axis=1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0], dtype=np.float64)


def _confusion(truth: NDArray[np.int64], answers: NDArray[np.intp], width: int) -> NDArray[np.int64]:
    counts = np.zeros((width, width), dtype=np.int64)
    np.add.at(counts, (truth, answers), 1)
    return counts


def _changes(before: NDArray[np.int64], after: NDArray[np.int64], title: Sequence[str]) -> list[ConfusionChange]:
    gap = np.abs(after - before)
    rows, columns = np.nonzero(gap)
    order = np.argsort(-gap[rows, columns], kind="stable")[:CONFUSION_CHANGES]
    return [
        ConfusionChange(label=title[r], predicted=title[c], reference=int(before[r, c]), engine=int(after[r, c]))
        for r, c in zip(rows[order], columns[order], strict=True)
    ]
