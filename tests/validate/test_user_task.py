"""A metric and a decoder of the user's run as the user's code, and what goes wrong in them is one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError
from radixrt.export.graph.output_kind import OutputKind
from radixrt.validate.quality import main_metric
from radixrt.validate.tasks.base import Interface, OutputsJudged, Trust
from radixrt.validate.tasks.choose import TASKS
from radixrt.validate.user_task import UserDecoder, UserMetric, UserTask, decoded_interface

CODE = """
import numpy as np

def apart(reference, engine, labels):
    return np.abs(reference - engine).mean()

def right(reference, engine, labels):
    return (engine.argmax(1) == labels).mean()

def raises(reference, engine, labels):
    raise ValueError("no such thing")

def nan(reference, engine, labels):
    return float("nan")

def text(reference, engine, labels):
    return "good"

def shares(outputs):
    e = np.exp(outputs["y"])
    return {"shares": e / e.sum(1, keepdims=True)}

def one(outputs):
    return outputs["y"].mean()
"""
NETWORK = Interface({"y": ("batch", 3)}, "Gemm", ("y",), targets=TargetKind.CLASSES, labelled=True)
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(24, 3)).astype(np.float32)
ENGINE = (LOGITS + RANDOM.normal(scale=0.3, size=LOGITS.shape)).astype(np.float32)
LABELS = tuple(LOGITS.argmax(1).tolist())


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("code") / "mine.py"
    file.write_text(CODE)
    return file


def judged(task: UserTask, network: Interface = NETWORK) -> OutputsJudged:
    judge = task.judge(network, Trust(True, 1.0))
    for part in (slice(0, 16), slice(16, 24)):
        batch = Batch({"x": LOGITS[part]}, LABELS[part], tuple(f"{i}.png" for i in range(24))[part])
        judge.add({"y": LOGITS[part]}, {"y": ENGINE[part]}, batch)
    return judge.result()


def test_a_metric_comes_first_and_its_name_says_which_way_is_better(code: Path) -> None:
    task = UserTask(TASKS["classify"], NETWORK, UserMetric.read(f"{code}:right"))
    found = judged(task)
    metric = main_metric(found.metrics)
    assert metric is not None and metric.name == "right" and metric.reference == 1.0
    assert metric.engine == pytest.approx(np.mean(ENGINE.argmax(1) == np.asarray(LABELS)))
    assert [spec.name for spec in task.metrics] == ["right", "top1", "top5"] and metric.delta_ci95_points is not None
    for text in (f"-{code}:apart", f"{code}:-apart"):
        lower = main_metric(judged(UserTask(TASKS["tensors"], NETWORK, UserMetric.read(text))).metrics)
        assert lower is not None and not lower.higher_is_better
        assert lower.drop_points == pytest.approx(float(np.abs(LOGITS - ENGINE).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "fails: ValueError: no such thing"),
        ("nan", "gives nan, which is no figure"),
        ("text", "fails: ValueError: could not convert"),
    ],
)
def test_what_a_metric_does_wrong_is_one_sentence(code: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        judged(UserTask(TASKS["tensors"], NETWORK, UserMetric.read(f"{code}:{name}")))
    assert "\n" not in str(caught.value)


def test_a_function_that_is_not_there_is_refused(code: Path) -> None:
    with pytest.raises(InputError, match="has no function or class 'absent' that judges answers"):
        UserMetric.read(f"{code}:absent")
    with pytest.raises(InputError, match=r"no file absent\.py that could hold a function that decodes outputs"):
        UserDecoder.read("absent.py:decode")


def test_a_decoder_makes_what_the_task_reads_and_parity_stays_of_the_outputs(code: Path) -> None:
    decoder = UserDecoder.read(f"{code}:shares")
    seen = decoded_interface(decoder, NETWORK, {"y": LOGITS})
    assert seen.main == "shares" and seen.kind is OutputKind.SCORES and seen.classes == 3
    task = UserTask(TASKS["classify"], NETWORK, decoder=decoder)
    found = judged(task, seen)
    assert found.parity.outputs[0].name == "y" and found.accuracy is not None
    assert task.needs(seen) == ("y",) and task.aims(seen) == ("y",)
    plain = judged(UserTask(TASKS["classify"], NETWORK))
    assert plain.accuracy is not None and found.accuracy.engine_top1 == plain.accuracy.engine_top1


def test_a_decoder_without_a_row_for_each_image_is_refused(code: Path) -> None:
    with pytest.raises(InputError, match=r"gives y of shape \(\) and type float32 for 24 images"):
        decoded_interface(UserDecoder.read(f"{code}:one"), NETWORK, {"y": LOGITS})
