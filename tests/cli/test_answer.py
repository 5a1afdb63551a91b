"""What a program is told: one JSON object on standard output and nothing else there, whatever the end is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from radixrt.cli.answer import Answer
from radixrt.validate.report.answer import EngineAnswer, Figures, GateAnswer, Paths, RunAnswer
from radixrt.validate.schema import Finding
from tests.cli_runner import radixrt
from tests.validate.reports import make_report


@pytest.mark.parametrize(
    "words",
    [
        ("engine", "--json", "-", "--bogus", "3"),
        ("engine", "--json=-", "--batch", "0"),
        ("engine", "nowhere.onnx", "--quiet", "--json", "-"),
        ("validate", "nowhere.onnx", "--json", "-"),
        ("validate", "--json", "-"),
    ],
)
def test_bad_input_is_answered_with_the_sentence_and_the_code(words: tuple[str, ...]) -> None:
    done = radixrt(*words)
    told = json.loads(done.out)
    assert done.code == told["exit_code"] == 2 and told["passed"] is False and told["engines"] == []
    assert done.sentence == f"Error: {' '.join(told['error'].split())}"
    assert told["command"].startswith(f"radixrt {words[0]} ")


@pytest.mark.parametrize("words", [("engine", "--json"), ("engine", "--json", "--quiet"), ("run", "--json", "-")])
def test_what_asks_for_no_answer_gets_none(words: tuple[str, ...]) -> None:
    done = radixrt(*words)
    assert done.code == 2 and done.out == "" and "Error" in done.err


def test_a_file_takes_the_answer_and_one_that_cannot_is_bad_input(tmp_path: Path) -> None:
    done = radixrt("validate", tmp_path / "no.onnx", "--json", tmp_path / "answer.json")
    told = json.loads((tmp_path / "answer.json").read_text())
    assert (done.code, done.out, told["exit_code"]) == (2, "", 2) and "no.onnx" in told["error"]
    (tmp_path / "file").write_text("mine")
    done = radixrt("engine", "--bogus", f"--json={tmp_path / 'file' / 'answer.json'}")
    assert done.code == 2 and "answer.json cannot be written" in done.sentence


@pytest.mark.slow
def test_what_a_users_code_prints_does_not_reach_the_answer(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import os\nprint('from python')\nos.write(1, b'from a library')\nos.system('echo from a child')\n"
        "def make():\n    raise RuntimeError('no weights today')\n"
    )
    words = ("engine", f"{tmp_path / 'net.py'}:make", "--data", "elpv", "--json", "-")
    command = [sys.executable, "-c", "from radixrt.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["exit_code"] == done.returncode == 2, done.stderr
    for said in ("from python", "from a library", "from a child", "no weights today"):
        assert said in done.stderr


def test_a_bug_is_answered_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from radixrt import cli

    def broken(answer: Answer) -> tuple[int, str]:
        raise TypeError("not meant to be")

    monkeypatch.setattr(sys, "argv", ["radixrt", "engine", "--json", "-"])
    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(TypeError):
        cli.main()
    assert json.loads(capsys.readouterr().out)["exit_code"] == 1


def test_figures_are_those_of_the_report() -> None:
    report = make_report()
    told = json.loads(EngineAnswer.of(report, Path("build/x")).model_dump_json())
    assert report.accuracy and report.parity and report.latency
    assert told["figures"]["delta_points"] == report.accuracy.delta_points
    assert told["figures"]["p95_ms"] == report.latency.rows[0].p95_ms
    assert told["figures"]["steady"] is not bool(report.latency.unsteady)
    assert [gate["name"] for gate in told["gates"]] == [gate.name for gate in report.gates]
    assert told["paths"]["report_html"] == "build/x/report.html"
    idle = EngineAnswer.of(make_report(executed=False), None)
    assert idle.paths is None and idle.figures.p50_ms is None


def test_the_manual_lists_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ci.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"```\n(schema.*?)```", page, re.DOTALL)
    models: list[type[BaseModel]] = [RunAnswer, EngineAnswer, GateAnswer, Figures, Paths, Finding]
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert keys <= set(re.findall(r"\w+", listed))
