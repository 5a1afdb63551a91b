"""A plan that cannot run here is judged by its CPU stand-in, and nothing takes the stand-in for the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from radixrt.engines.registry import get
from radixrt.validate.schema import Report
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs

RTX = get("tensorrt-rtx").capability()


@pytest.mark.slow
@pytest.mark.skipif(not RTX.builds or RTX.runs, reason="needs a target that builds here and does not run")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_plan_that_was_not_executed_has_the_figures_of_its_stand_in(precision: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_photographs(tmp_path / "data")
    tiny_network(tmp_path / "tiny.onnx", "batch")
    words = ("--model", tmp_path / "tiny.onnx", "--target", "tensorrt-rtx", "--precision", precision, "--data", data)
    limits = ("--input-size", "3,32,32", "--max-drop", "30", "--min-cosine", "0.9", "--max-p95-ms", "0.000001")
    done = radixrt("engine", *words, *limits, "-o", tmp_path / "bundle")
    assert done.code == 0, done.err
    assert "its CPU stand-in kept 2 gates" in done.out

    report = Report.read(tmp_path / "bundle" / "report.json")
    assert (report.executed, report.measured_on, report.latency, report.layer_times) == (
        False,
        "cpu stand-in",
        None,
        [],
    )
    assert report.parity is not None and 0.99 < report.parity.cosine_min < 1
    assert report.accuracy is not None
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["executed"] is False
    # A time that nobody took is not judged by anything else.
    (p95,) = [gate for gate in report.gates if gate.name == "max_p95_ms"]
    assert p95.value is None and "not executed" in p95.reason

    # Judged again, it is the stand-in again, with the same figures and the same words.
    done = radixrt("validate", tmp_path / "bundle", "--data", data, "-o", tmp_path / "again")
    assert done.code == 0 and "its CPU stand-in kept" in done.out, done.err
    again = Report.read(tmp_path / "again" / "report.json")
    assert (again.executed, again.measured_on, again.latency) == (False, "cpu stand-in", None)
    assert again.parity is not None and again.parity.cosine_min == report.parity.cosine_min
    assert any("was not executed" in note for note in again.notes)


@pytest.mark.slow
@pytest.mark.skipif(not RTX.builds or RTX.runs, reason="needs a target that builds here and does not run")
def test_a_limit_that_the_stand_in_misses_fails_without_the_device(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_photographs(tmp_path / "data")
    tiny_network(tmp_path / "tiny.onnx", "batch")
    words = ("--model", tmp_path / "tiny.onnx", "--target", "tensorrt-rtx", "--precision", "int8", "--data", data)
    # INT8 rounds, so no engine of it keeps a cosine of exactly 1.
    done = radixrt("engine", *words, "--input-size", "3,32,32", "--min-cosine", "1", "-o", tmp_path / "bundle")
    assert done.code == 3 and "not on the engine" in done.sentence
    assert "measured on the CPU stand-in" in (tmp_path / "bundle" / "report.md").read_text().split("\n")[2]
