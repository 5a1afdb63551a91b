"""A gate fails when its limit is missed, never silently skips what was asked for, and says by what it judged."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from radixrt.errors import InputError
from radixrt.validate.gates import (
    GateLimits,
    engine_row,
    judge_gates,
    judge_overflow,
    missed,
    passed,
    read_gates,
)
from radixrt.validate.measure.parity import parity
from radixrt.validate.quality import Metric, Regression
from radixrt.validate.schema import DriftRow, Gate, Latency, Size
from tests.validate.reports import make_report


def drop(points: float, low: float, high: float) -> list[Metric]:
    found = Metric(
        name="top1", title="top-1", samples=1000, reference=0.9, engine=0.9 - points / 100,
        delta_points=-points, delta_ci95_points=(-low, -high),
    )  # fmt: skip
    return [found]


def test_default_gate_judges_the_measured_drop_and_says_whether_it_is_proved() -> None:
    [gate] = judge_gates(GateLimits(), metrics=drop(0.5, 1.4, -0.4))
    assert gate.passed and gate.value == pytest.approx(0.5)
    assert "not proved" in gate.reason and "1.40 points" in gate.reason
    [gate] = judge_gates(GateLimits(), metrics=drop(0.2, 0.8, -0.4))
    assert gate.passed and "proves it" in gate.reason
    [gate] = judge_gates(GateLimits(), metrics=drop(1.2, 2.0, 0.4))
    assert not gate.passed
    [gate] = judge_gates(GateLimits(), metrics=drop(1.0, 2.0, 0.4))
    assert gate.passed, "a drop of exactly the limit is within it"


def test_strict_mode_judges_the_bound() -> None:
    [gate] = judge_gates(GateLimits(strict=True), metrics=drop(0.5, 1.4, -0.4))
    assert not gate.passed and gate.value == pytest.approx(1.4)
    [gate] = judge_gates(GateLimits(strict=True), metrics=drop(0.2, 0.8, -0.4))
    assert gate.passed


@pytest.mark.parametrize(
    ("name", "kept", "missed"),
    [
        ("min_agreement", 0.5, 1.0),
        ("min_cosine", 0.5, 0.99999),
        ("max_p95_ms", 10.0, 1.0),
        ("max_engine_bytes", 2_000_000, 1_000_000),
        ("min_speedup", 2.0, 4.0),
    ],
)
def test_every_other_gate_on_both_sides_of_its_limit(name: str, kept: float, missed: float) -> None:
    report = make_report(noise=0.05)
    for limit, expected in ((kept, True), (missed, False)):
        limits = read_gates(**{name: limit})
        gates = judge_gates(
            limits, parity=report.parity, metrics=report.metrics, latency=report.latency, size=report.size
        )
        gate = next(g for g in gates if g.name == name)
        assert gate.passed is expected, gate
        assert gate.value is not None


def test_asked_for_and_not_measured_fails_on_an_executed_engine() -> None:
    gates = judge_gates(read_gates(max_drop=1.0, min_cosine=0.9))
    assert [(g.name, g.passed, g.value) for g in gates] == [("max_drop", False, None), ("min_cosine", False, None)]
    # The default drop, which nobody asked for, does not fail a build on images without labels.
    [gate] = judge_gates(GateLimits())
    assert gate.passed and gate.value is None and "needs trained weights and labels" in gate.reason


def test_an_engine_that_was_not_executed_is_judged_by_its_size_alone() -> None:
    limits = read_gates(max_drop=1.0, min_cosine=0.9, max_p95_ms=1.0, max_engine_bytes=10)
    gates = judge_gates(limits, size=Size(deploy_onnx_bytes=20, engine_bytes=20), executed=False)
    assert {g.name: g.passed for g in gates} == {
        "max_drop": True, "min_cosine": True, "max_p95_ms": True, "max_engine_bytes": False,
    }  # fmt: skip
    assert all("not executed" in g.reason for g in gates if g.value is None)


def test_what_the_stand_in_answers_is_judged_and_the_reason_says_on_what() -> None:
    size = Size(deploy_onnx_bytes=20, engine_bytes=20)
    limits = read_gates(max_drop=1.0, min_cosine=0.9, min_agreement=0.5, max_p95_ms=1.0, max_engine_bytes=30)
    bad = make_report(stand_in=True, noise=2.0)
    gates = judge_gates(
        limits, parity=bad.parity, metrics=bad.metrics, size=size, executed=False, measured_on=bad.measured_on
    )
    assert {g.name: g.passed for g in gates} == {
        "max_drop": False, "min_cosine": False, "min_agreement": True, "max_p95_ms": True, "max_engine_bytes": True,
    }  # fmt: skip
    on_stand_in = {g.name for g in gates if "CPU stand-in of the same numbers, not on the engine" in g.reason}
    assert on_stand_in == {"max_drop", "min_cosine", "min_agreement"}
    assert [g.name for g in gates if g.value is None] == ["max_p95_ms"]


def test_what_the_stand_in_lacks_is_labels_and_not_an_execution() -> None:
    stand_in = make_report(stand_in=True)
    limits = read_gates(max_drop=1.0)
    [gate] = judge_gates(limits, parity=stand_in.parity, executed=False, measured_on="cpu stand-in")
    assert gate.passed and gate.value is None and "labels" in gate.reason and "executed" not in gate.reason


def test_file_and_options_and_their_order(tmp_path: Path) -> None:
    file = tmp_path / "gates.toml"
    file.write_text("[gates]\nmax_drop = 0.5\nmin_cosine = 0.99\nstrict = true\n")
    limits = read_gates(file, max_drop=0.25, min_speedup=None)
    assert limits == GateLimits(max_drop=0.25, min_cosine=0.99, strict=True)
    file.write_text("max_p95_ms = 3\n")
    assert read_gates(file).max_p95_ms == 3
    assert read_gates().drop_limit == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_dorp = 1", "max_dorp"),
        ("min_cosine = 1.5", "min_cosine"),
        ("min_cosine = 'high'", "min_cosine"),
        ("gates = 3", "gates"),
        ("= 3", "not a TOML file"),
        ("max_p95_ms = nan", "max_p95_ms"),
        ("max_drop = nan", "max_drop"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "gates.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_gates(file)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml"):
        read_gates(tmp_path / "absent.toml")


def test_every_gate_that_failed_is_named() -> None:
    good = Gate(name="min_cosine", unit="cosine", limit=0.9, value=0.99, passed=True)
    bad = Gate(name="max_p95_ms", unit="ms", limit=1, value=2, passed=False, reason="At batch 1.")
    assert passed([good]) and not passed([good, bad])
    assert missed([good, bad]) == "max_p95_ms is 2, limit 1 (At batch 1)"


MIOU = Metric(name="miou", title="mIoU", samples=40, reference=0.75, engine=0.72, delta_points=-3.0)


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ("miou>=0.71", True),
        ("miou >= 0.73", False),
        ("miou_drop<=3", True),
        ("miou_drop<=2.9", False),
        ("engine_bytes<=10", False),
    ],
)
def test_a_limit_on_any_figure_by_its_name(limit: str, kept: bool) -> None:
    size = Size(deploy_onnx_bytes=20, engine_bytes=20)
    limits = read_gates(gate=[limit], max_drop=5)
    gate = judge_gates(limits, metrics=[MIOU], size=size)[-1]
    assert gate.passed is kept and gate.value is not None


@pytest.mark.parametrize("limit", ["miou>0.7", "miou", ">=0.7", "miou>=high", "miou>=nan"])
def test_what_is_no_limit_on_a_figure_is_refused(limit: str) -> None:
    with pytest.raises(InputError, match=r"write such as miou>=0\.71"):
        read_gates(gate=limit)


def test_a_figure_that_was_not_measured_fails() -> None:
    gate = judge_gates(read_gates(gate="miou>=0.5"))[-1]
    assert not gate.passed and gate.value is None and "Cannot be judged" in gate.reason


def test_a_drop_of_what_is_better_lower_and_has_its_own_unit() -> None:
    mae = Metric(
        name="mae", title="MAE", share=False, higher_is_better=False, samples=40, reference=2.0, engine=2.5,
        delta_points=0.5, delta_ci95_points=(0.1, 0.9),
    )  # fmt: skip
    assert judge_gates(GateLimits(), metrics=[mae]) == [], "one point means nothing in years or millimetres"
    for limit, strict, kept in ((0.6, False, True), (0.4, False, False), (0.6, True, False)):
        [gate] = judge_gates(GateLimits(max_drop=limit, strict=strict), metrics=[mae])
        assert gate.passed is kept and "Of MAE." in gate.reason


def test_the_documented_gates_file_is_read(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "reading-the-report.md"
    example = page.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    file = tmp_path / "gates.toml"
    file.write_text(example, encoding="utf-8")
    named = {line.split(" ")[0] for line in example.splitlines()}
    assert named == {field.name for field in fields(GateLimits)} - {"strict"}
    assert read_gates(file).max_engine_bytes == 30_000_000


def test_nan_fails_a_gate_that_nobody_asked_for() -> None:
    reference = np.random.default_rng(0).normal(size=(6, 4))
    engine = reference.copy()
    engine[2] = np.nan
    gates = judge_gates(GateLimits(), parity=parity(reference, engine))
    assert [(g.name, g.value, g.unit) for g in gates if not g.passed] == [("max_nonfinite_images", 1, "images")]
    assert all(gate.passed for gate in judge_gates(GateLimits(), parity=parity(reference, reference)))


def test_a_layer_that_overflows_fails_though_the_engine_answered_well() -> None:
    layers = [
        DriftRow(
            name=f"layer{depth}", op_type="Pow", depth=depth, sqnr_db=40, rounding_share=0, clipping_share=0,
            nonfinite=bad,
        )
        for depth, bad in ((3, 7), (2, 5), (1, 0))
    ]  # fmt: skip
    [gate] = judge_overflow(layers)
    assert (gate.name, gate.value, gate.passed) == ("max_nonfinite_values", 5, False) and "layer2" in gate.reason
    assert judge_overflow(layers[2:]) == []


def since_a_bundle(ratio: float, unsteady: list[str] | None = None) -> Latency:
    """Times of an engine whose median is ``ratio`` of an earlier bundle's."""
    latency = make_report(noise=0.05).latency
    assert latency is not None
    own = engine_row(latency)
    times = [ms / ratio for ms in own.samples_ms]
    earlier = own.model_copy(update={"name": "bundle before", "samples_ms": times})
    return latency.model_copy(update={"rows": [*latency.rows, earlier], "unsteady": unsteady or []})


def test_a_slower_engine_than_the_earlier_bundle_s_fails() -> None:
    limits = GateLimits(max_regression_p50=5)
    for ratio, kept in ((1.2, False), (1.02, True), (0.5, True)):
        gate = judge_gates(limits, latency=since_a_bundle(ratio))[-1]
        assert (gate.name, gate.passed) == ("max_regression_p50", kept)
        assert gate.value == pytest.approx(100 * (ratio - 1), abs=0.1)
        assert "Over bundle before, in the same rounds; 95 % interval" in gate.reason
    gate = judge_gates(limits, latency=make_report().latency)[-1]
    assert not gate.passed and "no earlier bundle was timed" in gate.reason


def test_unsteady_times_tell_of_no_regression() -> None:
    latency = since_a_bundle(2.0, ["other processes kept 2.0 of 2 cores busy"])
    for strict in (False, True):
        gate = judge_gates(GateLimits(max_regression_p50=5, strict=strict), latency=latency)[-1]
        assert (gate.value, gate.passed) == (None, not strict)
        assert "not steady" in gate.reason


def test_an_accuracy_that_fell_since_the_earlier_bundle_fails() -> None:
    lost = Regression(bundle="before", drop_points=0.4, drop_ci95_points=(0.1, 0.9))
    found = [drop(0.2, 0.8, -0.4)[0].model_copy(update={"regressions": [lost]})]
    for limit, strict, kept in ((0.5, False, True), (0.3, False, False), (0.5, True, False)):
        gates = judge_gates(GateLimits(max_regression_drop=limit, strict=strict), metrics=found)
        gate = next(one for one in gates if one.name == "max_regression_drop")
        assert gate.passed is kept
        assert "Since before, on the same images; 95 % interval +0.10 to +0.90 points" in gate.reason
    gates = judge_gates(GateLimits(max_regression_drop=1), metrics=drop(0.2, 0.8, -0.4))
    assert not next(one for one in gates if one.name == "max_regression_drop").passed
