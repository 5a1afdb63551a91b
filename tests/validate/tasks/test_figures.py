"""A task's figures are torchmetrics' own, of both networks on the same images; its page names what changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassJaccardIndex,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)
from torchmetrics.regression import MeanAbsoluteError, R2Score
from torchmetrics.retrieval import RetrievalMAP

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.validate.quality import Metric, main_metric
from radixrt.validate.tasks.base import Interface, OutputsJudged, Trust
from radixrt.validate.tasks.choose import TASKS

IMAGES = 40
RANDOM = np.random.default_rng(0)


def judged(
    task: str,
    reference: NDArray[np.float32],
    engine: NDArray[np.float32],
    targets: Sequence[Target],
    trust: Trust = Trust(True, 1.0),  # noqa: B008 - frozen
) -> OutputsJudged:
    network = Interface({"y": ("batch", *reference.shape[1:])}, "Gemm", ("y",))
    assert TASKS[task].refusal(network) is None
    judge = TASKS[task].judge(network, trust)
    pixels = RANDOM.normal(size=(IMAGES, 3, 8, 8)).astype(np.float32)
    names = tuple(f"{i}.png" for i in range(IMAGES))
    for start in range(0, IMAGES, 16):
        part = slice(start, start + 16)
        batch = Batch({"x": pixels[part]}, tuple(targets[part]), names[part])
        judge.add({"y": reference[part]}, {"y": engine[part]}, batch)
    return judge.result()


def by_name(found: OutputsJudged) -> dict[str, Metric]:
    assert all(m.delta_ci95_points is not None for m in found.metrics)
    assert [m.name for m in found.metrics] in [[m.name for m in task.metrics] for task in TASKS.values()]
    return {metric.name: metric for metric in found.metrics}


def noisy(array: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    return (array + RANDOM.normal(scale=scale, size=array.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def maps() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    masks = RANDOM.integers(0, 3, (IMAGES, 16, 16)).astype(np.uint8)
    logits = noisy(np.eye(4, dtype=np.float32)[masks].transpose(0, 3, 1, 2), 0.5)
    masks[:, 0, :3] = 255
    return logits, masks


def test_segment(maps: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> None:
    logits, masks = maps
    engine = noisy(logits, 0.3)
    found = judged("segment", logits, engine, list(masks))
    metrics = by_name(found)
    for which, values in (("reference", logits), ("engine", engine)):
        jaccard = MulticlassJaccardIndex(4, ignore_index=255)
        right = MulticlassAccuracy(4, average="micro", ignore_index=255)
        answer, truth = torch.from_numpy(values).argmax(1), torch.from_numpy(masks.astype(np.int64))
        assert getattr(metrics["miou"], which) == pytest.approx(float(jaccard(answer, truth)), abs=1e-5)
        assert getattr(metrics["pixel_accuracy"], which) == pytest.approx(float(right(answer, truth)), abs=1e-5)
    assert metrics["miou"].conclusion and main_metric(found.metrics) == metrics["miou"]
    assert metrics["agreement"].engine == pytest.approx((logits.argmax(1) == engine.argmax(1)).mean())
    assert [panel.title for panel in found.examples[0].panels] == ["image", "label", "original", "engine"]


def test_one_class_against_the_rest_and_a_smaller_answer(
    maps: tuple[NDArray[np.float32], NDArray[np.uint8]],
) -> None:
    _, masks = maps
    binary = np.where(masks == 255, 255, masks > 0).astype(np.uint8)
    logits = np.where(binary == 1, 2.0, -2.0).astype(np.float32)[:, None]
    assert judged("segment", logits, logits, list(binary)).metrics[0].engine == 1.0
    coarse = np.kron(masks[:, ::2, ::2] % 3, np.ones((2, 2), np.uint8))
    small = np.eye(3, dtype=np.float32)[masks[:, ::2, ::2] % 3].transpose(0, 3, 1, 2)
    assert judged("segment", small, small, list(coarse)).metrics[0].engine == 1.0


def test_without_labels_only_what_both_answer_is_compared(
    maps: tuple[NDArray[np.float32], NDArray[np.uint8]],
) -> None:
    logits, masks = maps
    found = judged("segment", logits, noisy(logits, 0.3), list(masks), Trust(False, 1.0))
    assert [metric.name for metric in found.metrics] == ["agreement"] and main_metric(found.metrics) is None


def test_multilabel() -> None:
    logits = RANDOM.normal(size=(IMAGES, 4)).astype(np.float32)
    truth = (noisy(logits, 0.7) > 0).astype(np.int64)
    engine = noisy(logits, 0.2)
    found = judged("multilabel", logits, engine, [tuple(np.flatnonzero(row).tolist()) for row in truth])
    metrics = by_name(found)
    for which, values in (("reference", logits), ("engine", engine)):
        sure, labels = torch.from_numpy(values).sigmoid(), torch.from_numpy(truth)
        expected = float(MultilabelAveragePrecision(4)(sure, labels)), float(MultilabelF1Score(4)(sure, labels))
        assert getattr(metrics["map"], which) == pytest.approx(expected[0], abs=1e-5)
        assert getattr(metrics["f1"], which) == pytest.approx(expected[1], abs=1e-5)
    assert "engine" in found.examples[0].text and len(found.tables[0].rows) == 4


@pytest.mark.parametrize("width", [0, 3])
def test_regress(width: int) -> None:
    shape = (IMAGES, width) if width else (IMAGES,)
    answer = RANDOM.normal(size=shape).astype(np.float32)
    truth, engine = noisy(answer, 0.1), noisy(answer, 0.05)
    rows = [tuple(row.tolist()) for row in truth.reshape(IMAGES, -1)]
    found = judged("regress", answer, engine, rows, Trust(True, 0.1))
    metrics = by_name(found)
    flat = torch.from_numpy(engine.reshape(IMAGES, -1)), torch.from_numpy(truth.reshape(IMAGES, -1))
    assert metrics["mae"].engine == pytest.approx(float(MeanAbsoluteError()(*flat)), abs=1e-5)
    assert metrics["r2"].engine == pytest.approx(float(R2Score()(*flat)), abs=1e-5)
    assert metrics["mae"].drop_points == pytest.approx(metrics["mae"].engine - metrics["mae"].reference)
    assert "the drop is within 0.1" in metrics["mae"].conclusion


def test_embed() -> None:
    identities = [i % 8 for i in range(IMAGES)]
    vectors = noisy(RANDOM.normal(size=(8, 16)).astype(np.float32)[identities], 1.0)
    engine = noisy(vectors, 0.3)
    found = judged("embed", vectors, engine, identities)
    metrics = by_name(found)
    units = torch.nn.functional.normalize(torch.from_numpy(engine))
    close, same = units @ units.T, torch.tensor(identities)[:, None] == torch.tensor(identities)
    others = ~torch.eye(IMAGES, dtype=torch.bool)
    queries = torch.arange(IMAGES)[:, None].expand(IMAGES, IMAGES)
    expected = RetrievalMAP()(close[others], same[others], indexes=queries[others])
    assert metrics["map"].engine == pytest.approx(float(expected), abs=1e-5)
    assert metrics["recall_at_1"].interval == "Tango's score interval"
    assert [panel.title for panel in found.examples[0].panels] == ["image", "nearest, original", "nearest, engine"]


def test_identities_of_one_image_each_and_numbers_of_another_width_are_refused_early() -> None:
    from types import SimpleNamespace

    from radixrt.errors import InputError

    network = Interface({"y": ("batch", 2)}, "Gemm", ("y",), targets=TargetKind.NUMBERS)
    images = SimpleNamespace(names=("a.png", "b.png"), targets=((1.0,), (2.0,)))
    with pytest.raises(InputError, match=r"a\.png is labelled with 1 numbers, and the network answers with 2"):
        TASKS["regress"].check(network, images)  # type: ignore[arg-type]
    alone = SimpleNamespace(names=("a.png", "b.png"), targets=(0, 1))
    with pytest.raises(InputError, match="no two test images are of the same identity"):
        TASKS["embed"].check(network, alone)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"b\.png has the label 5, and the network has 2"):
        labelled = SimpleNamespace(names=("a.png", "b.png"), targets=((), (5,)))
        TASKS["multilabel"].check(network, labelled)  # type: ignore[arg-type]
