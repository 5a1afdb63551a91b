"""Accuracy counts the right images, orders the flips, and concludes no more than the images allow."""

from __future__ import annotations

import numpy as np
import pytest

from radixrt.errors import InputError
from radixrt.export.graph.output_kind import Head
from radixrt.validate.measure.accuracy import accuracy
from tests.validate.reports import CLASSES, logits


def one_hot(answers: list[int], width: int = 3, height: float = 4.0) -> np.ndarray:
    return np.eye(width)[answers] * height


def test_counts_of_a_case_done_by_hand() -> None:
    labels = [0, 0, 1, 1, 2, 2]
    reference = one_hot([0, 0, 1, 0, 2, 2])  # five right
    engine = one_hot([0, 1, 1, 1, 2, 0])  # four right: two lost, one gained
    found = accuracy(reference, engine, labels, names=list("abcdef"), head=Head(("x", "y", "z")))
    assert (found.reference_top1, found.engine_top1) == (pytest.approx(5 / 6), pytest.approx(4 / 6))
    assert found.delta_points == pytest.approx(-100 / 6)
    assert found.delta_ci95_points[0] < found.delta_points < found.delta_ci95_points[1]
    assert found.mcnemar_p == 1.0
    assert {(f.image, f.label, f.reference, f.engine) for f in found.flips} == {
        ("b", "x", "x", "y"),
        ("d", "y", "x", "y"),
        ("f", "z", "z", "x"),
    }
    assert found.confusion_reference == [[2, 0, 0], [1, 1, 0], [0, 0, 2]]
    assert found.confusion_engine == [[1, 1, 0], [0, 2, 0], [1, 0, 1]]
    assert [(c.label, c.samples) for c in found.classes] == [("x", 2), ("y", 2), ("z", 2)]
    assert found.classes[1].engine_top1 == 1.0
    assert sum(abs(c.engine - c.reference) for c in found.confusion_changes) == 6


def test_flips_start_with_the_surest_reference() -> None:
    reference, engine, labels = logits(400, 1.0)
    margins = [flip.reference_margin for flip in accuracy(reference, engine, labels).flips]
    assert len(margins) > 10
    assert margins == sorted(margins, reverse=True)
    assert all(0 <= m <= 1 for m in margins)


def test_conclusion_claims_a_proof_only_where_there_is_one() -> None:
    reference, engine, labels = logits(2000, 0.001)
    proved = accuracy(reference, engine, labels)
    assert "the drop is within 1 points" in proved.conclusion
    assert proved.images_needed is None

    few = accuracy(reference[:50], engine[:50], labels[:50])
    assert few.delta_points == 0
    assert "not enough images to tell" in few.conclusion
    assert few.images_needed is not None and few.images_needed > 50
    assert str(few.images_needed) in few.conclusion

    random = np.random.default_rng(0).normal(size=engine.shape)
    assert "the drop exceeds 1 points" in accuracy(reference, random, labels).conclusion


def test_an_image_that_gave_nan_is_wrong_and_listed() -> None:
    reference = one_hot([0, 1, 2])
    engine = reference.copy()
    engine[1, 1] = np.nan
    found = accuracy(reference, engine, [0, 1, 2])
    assert found.engine_top1 == pytest.approx(2 / 3)
    assert [f.engine for f in found.flips] == ["not finite"]
    assert found.engine_top5 == pytest.approx(2 / 3)


def test_a_wide_head_keeps_the_file_small() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(50, 1000))
    found = accuracy(reference, reference + random.normal(size=reference.shape), random.integers(0, 1000, 50))
    assert found.confusion_reference == [] and found.confusion_engine == []
    assert 0 < len(found.confusion_changes) <= 12


def test_swapped_classes_show_in_the_confusion() -> None:
    reference, _, labels = logits(400, 0.0)
    found = accuracy(reference, reference[:, [1, 0, 2, 3]], labels, head=Head(CLASSES))
    top = {(c.label, c.predicted) for c in found.confusion_changes[:4]}
    assert ("functional", "defective") in top and ("defective", "functional") in top


@pytest.mark.parametrize(
    ("labels", "message"), [([0, 1], "labels for 3 images"), ([0, 1, 7], "does not fit"), ([0, -1, 1], "does not fit")]
)
def test_labels_that_do_not_fit_are_refused(labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        accuracy(one_hot([0, 1, 2]), one_hot([0, 1, 2]), labels)
