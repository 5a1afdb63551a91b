"""Parity figures against their definitions, batch by batch, and with values that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

from radixrt.errors import InputError
from radixrt.export.graph.output_kind import Head
from radixrt.validate.measure.parity import OutputAccumulator, ParityAccumulator, parity, reported_db
from tests.validate.reports import logits


def test_figures_follow_their_definitions() -> None:
    reference, engine, _ = logits(200, 0.3)
    found = parity(reference, engine)
    error = engine - reference
    cosine = (reference * engine).sum(1) / np.linalg.norm(reference, axis=1) / np.linalg.norm(engine, axis=1)
    assert found.samples == 200
    assert found.max_abs == pytest.approx(np.abs(error).max())
    assert found.mean_abs == pytest.approx(np.abs(error).mean())
    assert found.cosine_min == pytest.approx(cosine.min())
    assert found.cosine_mean == pytest.approx(cosine.mean())
    assert found.sqnr_db == pytest.approx(10 * np.log10((reference**2).sum() / (error**2).sum()))
    assert found.top1_agreement == (reference.argmax(1) == engine.argmax(1)).mean()
    divergence = rel_entr(softmax(reference, axis=1), softmax(engine, axis=1)).sum(1).mean()
    assert found.softmax_kl == pytest.approx(divergence)
    assert found.worst[0].cosine == pytest.approx(cosine.min())
    assert found.worst[0].image == f"#{cosine.argmin()}"


def test_batches_give_what_the_whole_gives() -> None:
    reference, engine, _ = logits(101, 0.3)
    names = [f"{i}.png" for i in range(101)]
    gathered = ParityAccumulator(Head(("a", "b", "c", "d")))
    for start in range(0, 101, 16):
        part = slice(start, start + 16)
        gathered.add(reference[part], engine[part], names[part])
    whole = parity(reference, engine, names=names, head=Head(("a", "b", "c", "d")))
    batched = gathered.result()
    assert batched.worst == whole.worst
    nested = {"worst", "outputs", "sizes"}
    assert batched.model_dump(exclude=nested) == pytest.approx(whole.model_dump(exclude=nested))


# A regression's cosine is its sign: an engine that lies 0.02 off at an age of 0.01 would show -1 and be called broken.
def test_one_number_a_sample_has_no_cosine_and_the_furthest_come_first() -> None:
    reference = np.array([[0.01], [30.0], [5.0]])
    gathered = ParityAccumulator(main="age", classify=False)
    gathered.add_output("age", reference, reference + np.array([[-0.02], [0.3], [0.1]]), ["a", "b", "c"])
    gathered.add_output("boxes", np.eye(3), np.eye(3), ["a", "b", "c"])
    found = gathered.result()
    assert (found.cosine_min, found.cosine_mean, found.max_abs) == (None, None, pytest.approx(0.3))
    assert found.sqnr_db == pytest.approx(39.6, abs=0.1) and found.outputs[1].cosine_min == pytest.approx(1.0)
    assert [(one.image, one.cosine) for one in found.worst] == [("b", None), ("c", None), ("a", None)]


# A feature map that goes wrong while the logits stay right must show, in its own row and not in the logits' figures.
def test_each_output_has_figures_of_its_own() -> None:
    reference, _, _ = logits(20, 0.0)
    maps = np.random.default_rng(1).normal(size=(20, 3, 4, 4))
    gathered = ParityAccumulator(main="scores")
    for part in (slice(0, 8), slice(8, 20)):
        names = [str(i) for i in range(20)[part]]
        gathered.add(reference[part], reference[part], names)
        gathered.add_output("map", maps[part], maps[part] * 1.1, names)
    found = gathered.result()
    scores, second = found.outputs
    assert (scores.name, scores.shape, scores.sqnr_db, found.max_abs) == ("scores", [4], 200.0, 0.0)
    assert (second.name, second.shape) == ("map", [3, 4, 4])
    assert second.max_abs == pytest.approx(0.1 * np.abs(maps).max())
    assert second.mean_abs == pytest.approx(0.1 * np.abs(maps).mean())
    assert second.sqnr_db == pytest.approx(20.0)
    assert second.cosine_min == pytest.approx(1.0)
    with pytest.raises(InputError, match="output map has shape"):
        gathered.add_output("map", maps, maps[:, :2], [str(i) for i in range(20)])


def test_equal_outputs_are_equal() -> None:
    reference, _, _ = logits(10, 0.0)
    found = parity(reference, reference.copy())
    assert (found.sqnr_db, found.max_abs, found.top1_agreement, found.top5_agreement) == (200.0, 0.0, 1.0, 1.0)
    assert found.cosine_min == pytest.approx(1.0)
    assert found.softmax_kl == 0.0


def test_top5_counts_shared_classes_of_a_wide_head() -> None:
    reference = np.arange(10.0)[None].repeat(2, axis=0)
    engine = reference.copy()
    engine[1] = engine[1, ::-1]  # the five best become the five worst
    assert parity(reference, engine).top5_agreement == 0.5


def test_nan_in_the_engine_is_counted_and_never_hidden() -> None:
    reference, engine, _ = logits(10, 0.01)
    engine[3, 1] = np.nan
    engine[4, 0] = np.inf
    found = parity(reference, engine, names=[f"{i}.png" for i in range(10)])
    assert found.nonfinite == 2
    assert found.cosine_min == 0.0
    assert found.top1_agreement <= 0.8
    assert {w.image for w in found.worst[:2]} == {"3.png", "4.png"}
    assert found.worst[0].engine == "not finite"
    assert np.isfinite([found.max_abs, found.mean_abs, found.sqnr_db, found.softmax_kl]).all()


@pytest.mark.parametrize(
    ("reference", "engine", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "must be"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "not empty"),
        (np.zeros(3), np.zeros(3), "images, classes"),
        (np.array([[np.nan, 1.0]]), np.array([[0.0, 1.0]]), "reference's output"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference: np.ndarray, engine: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parity(reference, engine)


def test_rows_that_one_of_them_lacks_count_as_wrong() -> None:
    boxes = np.arange(1.0, 13.0).reshape(1, 3, 4)
    gathered = OutputAccumulator("boxes")
    for engine in (boxes, boxes[:, :2]):
        gathered.add(boxes, engine, ["a.png"])
    gathered.add(boxes[:, :0], boxes[:, :0], ["none.png"])
    found = gathered.result()
    lost = np.square(boxes[0, 2]).sum()
    assert found.sqnr_db == pytest.approx(10 * np.log10(2 * np.square(boxes).sum() / lost))
    assert gathered.images == 3 and found.cosine_min < 1 and found.shape == [1, 4]


def test_nothing_added_is_refused() -> None:
    with pytest.raises(InputError, match="no images"):
        ParityAccumulator().result()


def test_sqnr_has_finite_ends() -> None:
    assert reported_db(1.0, 0.0) == 200.0
    assert reported_db(0.0, 1.0) == -200.0
    assert reported_db(100.0, 1.0) == pytest.approx(20.0)
