"""Every option of a build: what depends on it is made anew, and everything else is taken from the run before."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from radixrt import machine as processor
from radixrt.build.pipeline import Engine
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.engines.base import Target
from radixrt.engines.cpu.onnxruntime import OnnxRuntimeTarget
from radixrt.engines.forms import choose as forms
from radixrt.errors import GateError
from radixrt.export.attention.forms import AttentionForm
from radixrt.export.feed import Feed
from radixrt.export.spec import BatchSpec, Precision
from radixrt.judge.measure import Instruments
from radixrt.options import CompileOptions
from radixrt.progress import LOGGER, Stages
from radixrt.request import EngineRequest
from radixrt.validate.gates import GateLimits
from radixrt.validate.measure.latency import LatencyOptions, Runner, measure
from radixrt.validate.rivals import Rivals
from radixrt.validate.schema import Latency, Report
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs

REWRITE, RANGES, RECOVERY, ENGINE, ANSWERS, DRIFT = (
    "rewrite", "calibration", "recovery", "onnxruntime engine", "onnxruntime answers", "drift",
)  # fmt: skip
PIXELS = {RANGES, RECOVERY, ANSWERS, DRIFT}


def once(runners: Mapping[str, Runner], samples: Feed, options: LatencyOptions) -> Latency:
    return measure(runners, samples, replace(options, rounds=1, min_rounds=1, warmup_seconds=0, settle_s=0, timed_s=0))


# Times are taken once, and no layer is profiled.
QUICK = Instruments(timer=once, costs=lambda verdict, *_: verdict)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny network and photographs, in a cache of its own; no form is measured."""
    folder = tmp_path_factory.mktemp("reuse")
    (folder / "data").mkdir()
    write_photographs(folder / "data")
    tiny_network(folder / "tiny.onnx", "batch")
    with pytest.MonkeyPatch.context() as patch:
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


class Keys(logging.Handler):
    """Remembers under which key each step of a build was looked for."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.keys: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.DEBUG and isinstance(record.args, tuple):
            step, _, key = record.args
            self.keys[str(step)] = str(key)


def build(work: Path, instruments: Instruments = QUICK, **changes: Any) -> tuple[dict[str, str], Report]:
    """The keys of a build's steps, and its report; ``changes`` are of the request and of its parts."""
    asked = CompileOptions(
        model=work / "tiny.onnx",
        data=listed(work),
        input_size="3,32,32",
        batch="1..2",
        target="onnxruntime",
        max_drop=50,
        output=work / "bundle",
    )
    request = EngineRequest.of(asked)
    for name in ("model", "data", "build"):
        if name in changes:
            changes[name] = replace(getattr(request, name), **changes[name])
    heard, level = Keys(), LOGGER.level
    LOGGER.addHandler(heard)
    LOGGER.setLevel(logging.DEBUG)
    try:
        (result,) = Engine(replace(request, **changes), Stages(), instruments).run()
    finally:
        LOGGER.removeHandler(heard)
        LOGGER.setLevel(level)
    return heard.keys, result.report


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The stages of the first that the second cannot take from it."""
    return {stage for stage in before if after.get(stage) != before[stage]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"build": {"batch": BatchSpec(1, 3)}}, {REWRITE, ENGINE, ANSWERS, DRIFT}),
        ({"build": {"precision": Precision.FP32}}, {REWRITE, RANGES, RECOVERY, ENGINE, ANSWERS, DRIFT}),
        ({"calibration": CalibrationOptions(Method.ENTROPY)}, {RECOVERY}),
        ({"data": {"calibration_images": 3}}, {RANGES, RECOVERY}),
        ({"data": {"test_images": 4}}, {ANSWERS}),
        ({"data": {"mean": "0.5,0.4,0.3"}}, PIXELS),
        ({"data": {"crop_pct": 0.9}}, PIXELS),
        ({"data": {"interpolation": "nearest"}}, PIXELS),
        ({"grouped_conv": "keep"}, {REWRITE}),
        ({"recovery": False}, {RECOVERY}),
        ({"gates": GateLimits(max_drop=40)}, {ANSWERS}),
        ({"gates": GateLimits(max_drop=50, min_cosine=0.5)}, set()),
        ({"gates": GateLimits(max_drop=50, strict=True)}, set()),
        ({"build": {"threads": 1}}, {REWRITE, ENGINE, ANSWERS}),
        ({"build": {"workspace_mb": 64}}, {ENGINE}),
        ({"build": {"builder_level": 2}}, {ENGINE}),
        ({"build": {"compute_capabilities": ("8.6",)}}, {ENGINE}),
        ({"latency_rounds": 25}, set()),
        ({"rivals": Rivals(sweep=(2,))}, set()),
        ({"model": {"seed": 3, "logits": "logits"}}, set()),
    ],
    ids=lambda value: ", ".join(sorted(value)) if isinstance(value, set) else str(value),  # the same in each worker
)
def test_an_option_changes_what_depends_on_it_and_nothing_else(
    work: Path, first: dict[str, str], change: dict[str, Any], made: set[str]
) -> None:
    assert set(first) == {REWRITE, RANGES, RECOVERY, ENGINE, ANSWERS, DRIFT}
    keys, report = build(work, **change)
    assert changed(first, keys) == made
    assert report.latency is not None and report.latency.method.threads == change.get("build", {}).get("threads", 0)


# A gate once passed on the times of an earlier build, which the page printed digit by digit.
@pytest.mark.slow
def test_times_are_measured_in_each_build_and_judged_by_those(work: Path, first: dict[str, str]) -> None:
    def slow(runners: Mapping[str, Runner], samples: Feed, options: LatencyOptions) -> Latency:
        times = once(runners, samples, options)
        rows = [row.model_copy(update={"p95_ms": 1e6}) for row in times.rows]
        return times.model_copy(update={"rows": rows, "unsteady": []})

    limits = GateLimits(max_drop=50, max_p95_ms=1e5)
    with pytest.raises(GateError, match="max_p95_ms is 1000000"):
        build(work, gates=limits, instruments=replace(QUICK, timer=slow))
    report = Report.read(work / "bundle" / "report.json")
    (gate,) = [gate for gate in report.gates if gate.name == "max_p95_ms"]
    assert not gate.passed and gate.value == 1e6
    assert "onnxruntime answers" in report.reused


@pytest.mark.slow
def test_what_the_data_or_the_machine_changes_is_measured_anew(
    work: Path, first: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, before = build(work)
    assert keys == first
    # The same files with other labels: the hash of their contents does not know.
    swapped = listed(work, lambda name: {"ash": "beech", "beech": "ash"}.get(name, name), "swapped.csv")
    _, after = build(work, data={"data": str(swapped)})
    assert before.accuracy is not None and after.accuracy is not None
    assert after.accuracy.engine_top1 != before.accuracy.engine_top1
    # The same classes by other names, which the report gives.
    renamed = listed(work, lambda name: f"{name} tree", "renamed.csv")
    _, after = build(work, data={"data": str(renamed)})
    assert after.accuracy is not None and after.accuracy.classes[0].label == "ash tree"

    here = OnnxRuntimeTarget().capability()
    with monkeypatch.context() as patch:
        patch.setattr(OnnxRuntimeTarget, "capability", lambda self: replace(here, version=f"{here.version}.1"))
        assert changed(first, build(work)[0]) == {REWRITE, ENGINE, ANSWERS}
    # Somebody's cache on another machine, which calls its device "CPU" as well.
    monkeypatch.setattr(processor, "processor", lambda: "another processor")
    assert changed(first, build(work)[0]) == {REWRITE, ANSWERS}


@pytest.mark.slow
def test_a_fresh_build_takes_nothing_and_measures_forms_anew(work: Path, first: dict[str, str]) -> None:
    answers: list[Path | None] = []

    def usual(target: Target, precision: Precision, cache: Path | None, *, threads: int) -> tuple[AttentionForm, str]:
        answers.append(cache)
        return target.attention_form(), "usual"

    with mock.patch.object(forms, "attention_form", usual):
        _, report = build(work, fresh=True)
        build(work, build={"batch": BatchSpec(2, 5)})  # which no other test here asks for
    assert report.reused == []
    own, users = answers
    assert own is not None and not own.parent.exists() and users is None


# A batch that the whole test does not fill has an error as well.
@pytest.mark.slow
def test_the_error_is_located_on_fewer_images_than_a_batch(work: Path) -> None:
    _, report = build(work, build={"batch": BatchSpec(64, 64), "precision": Precision.FP16})
    assert len(report.drift) == 1
