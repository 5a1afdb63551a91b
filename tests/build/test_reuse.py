"""Every option of a build: what depends on it is made anew, and everything else is taken from the run before."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray

import radixrt.build.target
import radixrt.judge.judge
from radixrt.engines import machine as processor
from radixrt.engines.base import Target
from radixrt.engines.cpu.onnxruntime import OnnxRuntimeTarget
from radixrt.engines.forms import choose as forms
from radixrt.export.attention.forms import AttentionForm
from radixrt.export.spec import Precision
from radixrt.reuse import Reuse
from radixrt.validate.measure.latency import LatencyOptions, Runner, measure
from radixrt.validate.schema import Latency, Report
from tests.cli_runner import radixrt as command
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs

REWRITE, RANGES, RECOVERY, ENGINE, TIMES, DRIFT = (
    "rewrite", "calibration", "recovery", "onnxruntime engine", "onnxruntime measurements", "drift",
)  # fmt: skip
PIXELS = {RANGES, RECOVERY, TIMES, DRIFT}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny network and photographs, in a cache of its own; times are taken once, no layer or form is measured."""

    def once(runners: Mapping[str, Runner], images: NDArray[np.float32], options: LatencyOptions) -> Latency:
        return measure(runners, images, replace(options, rounds=1, min_rounds=1, warmup_seconds=0, pause_s=0))

    folder = tmp_path_factory.mktemp("reuse")
    (folder / "data").mkdir()
    write_photographs(folder / "data")
    tiny_network(folder / "tiny.onnx", "batch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radixrt.judge.judge, "measure", once)
        patch.setattr(radixrt.build.target, "with_costs", lambda verdict, *_: verdict)
        patch.setattr(forms, "attention_form", lambda target, *_, **__: (target.attention_form(), "usual"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def first(work: Path) -> dict[str, str]:
    """The keys of a build that changes nothing."""
    return build(work)[0]


def listed(work: Path, called: Callable[[str], str] = str, name: str = "list.csv") -> Path:
    """The photographs as a CSV; ``called`` gives each its label, by its path."""
    with (work / name).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        for path in sorted((work / "data").rglob("*.png")):
            rows.writerow((path, called(path.parent.name)))
    return work / name


def build(work: Path, *words: object) -> tuple[dict[str, str], Report]:
    """Under which key each stage of a build was looked for, and its report."""
    given = ("--model", work / "tiny.onnx", "--target", "onnxruntime", "--input-size", "3,32,32", "--batch", "1..2")
    keys: dict[str, str] = {}
    find = Reuse.find

    def look(self: Reuse, key: str, stage: str) -> Path | None:
        keys[stage] = key
        return find(self, key, stage)

    with mock.patch.object(Reuse, "find", look):
        done = command("engine", *given, "--max-drop", 50, "--data", listed(work), "-o", work / "bundle", *words)
    assert done.code == 0, done.err
    return keys, Report.read(work / "bundle" / "report.json")


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The stages of the first that the second cannot take from it."""
    return {stage for stage in before if after.get(stage) != before[stage]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "made"),
    [
        (("--batch", "1..3"), {REWRITE, ENGINE, TIMES, DRIFT}),
        (("--precision", "fp32"), {REWRITE, RANGES, RECOVERY, ENGINE, TIMES, DRIFT}),
        (("--method", "entropy"), {RECOVERY}),
        (("--calibration-images", 3), {RANGES, RECOVERY}),
        (("--test-images", 4), {TIMES}),
        (("--mean", "0.5,0.4,0.3"), PIXELS),
        (("--crop-pct", 0.9), PIXELS),
        (("--interpolation", "nearest"), PIXELS),
        (("--grouped-conv", "keep"), {REWRITE}),
        (("--no-recovery",), {RECOVERY}),
        (("--max-drop", 40), {TIMES}),
        (("--min-cosine", 0.5), set()),
        (("--strict", "--max-drop", 50), set()),
        (("--threads", 1), {REWRITE, ENGINE, TIMES}),
        (("--workspace-mb", 64), {ENGINE}),
        (("--builder-level", 2), {ENGINE}),
        (("--compute-capability", "8.6"), {ENGINE}),
        (("--latency-rounds", 20), {TIMES}),
        (("--batch-sweep", "2"), {TIMES}),
        (("--seed", 3, "--logits", "logits"), set()),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_an_option_changes_what_depends_on_it_and_nothing_else(
    work: Path, first: dict[str, str], option: tuple[object, ...], made: set[str]
) -> None:
    assert set(first) == {REWRITE, RANGES, RECOVERY, ENGINE, TIMES, DRIFT}
    keys, report = build(work, *option)
    assert changed(first, keys) == made
    assert report.latency is not None and report.latency.method.threads == ("--threads" in option)


@pytest.mark.slow
def test_what_the_data_or_the_machine_changes_is_measured_anew(
    work: Path, first: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, before = build(work)
    assert keys == first
    # The same files with other labels: the hash of their contents does not know.
    swapped = listed(work, lambda name: {"ash": "beech", "beech": "ash"}.get(name, name), "swapped.csv")
    _, after = build(work, "--data", swapped)
    assert before.accuracy is not None and after.accuracy is not None
    assert after.accuracy.engine_top1 != before.accuracy.engine_top1
    # The same classes by other names, which the report gives.
    _, after = build(work, "--data", listed(work, lambda name: f"{name} tree", "renamed.csv"))
    assert after.accuracy is not None and after.accuracy.classes[0].label == "ash tree"

    here = OnnxRuntimeTarget().capability()
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeTarget, "capability", lambda self: replace(here, version=f"{here.version}.1"))
        assert changed(first, build(work)[0]) == {REWRITE, ENGINE, TIMES}
    # Somebody's cache on another machine, which calls its device "CPU" as well.
    monkeypatch.setattr(processor, "processor", lambda: "another processor")
    assert changed(first, build(work)[0]) == {REWRITE, TIMES}


@pytest.mark.slow
def test_a_fresh_build_takes_nothing_and_measures_forms_anew(work: Path, first: dict[str, str]) -> None:
    answers: list[Path | None] = []

    def usual(target: Target, precision: Precision, cache: Path | None, *, threads: int) -> tuple[AttentionForm, str]:
        answers.append(cache)
        return target.attention_form(), "usual"

    with mock.patch.object(forms, "attention_form", usual):
        _, report = build(work, "--fresh")
        build(work, "--batch", "2..5")  # which no other test here asks for
    assert not any(note.startswith("Taken from an earlier run") for note in report.notes)
    own, users = answers
    assert own is not None and not own.parent.exists() and users is None


# A batch that the whole test does not fill has an error as well.
@pytest.mark.slow
def test_the_error_is_located_on_fewer_images_than_a_batch(work: Path) -> None:
    _, report = build(work, "--batch", 64, "--precision", "fp16")
    assert len(report.drift) == 1
