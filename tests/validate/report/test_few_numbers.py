"""Outputs of one number a sample, and of few: no report shows or ranks them by a cosine, which says nothing of them."""

from __future__ import annotations

import numpy as np
import pytest

from radixrt.validate.gates import judge_gates, read_gates
from radixrt.validate.measure.parity import ParityAccumulator, parity
from radixrt.validate.report.compare import BY_COSINE, BY_SQNR, compare, render_comparison
from radixrt.validate.report.html import render_html
from radixrt.validate.report.junit import render_junit
from radixrt.validate.report.markdown import render_markdown
from radixrt.validate.report.summary import tiles
from radixrt.validate.schema import Parity, Report
from tests.validate.reports import make_report


def regressed(error: float, task: str = "regress", milliseconds: float = 4.0) -> Report:
    gathered = ParityAccumulator(main="logits", classify=False)
    truth = np.linspace(-1, 1, 40)[:, None]
    gathered.add_output("logits", truth, truth + error, [f"{i}.png" for i in range(40)])
    return of(gathered.result(), task, milliseconds)


def of(close: Parity, task: str, milliseconds: float = 4.0) -> Report:
    plain = make_report(milliseconds=milliseconds)
    return plain.model_copy(update={"parity": close, "accuracy": None, "metrics": [], "gates": [], "task": task})


@pytest.mark.parametrize(("task", "called"), [("regress", "the number"), ("tensors", "the output")])
def test_a_single_number_is_told_by_sqnr_and_largest_difference(task: str, called: str) -> None:
    report = regressed(0.06, task)
    shown = {tile.label: (tile.value, tile.note) for tile in tiles(report)}
    assert shown["SQNR"] == ("19.9 dB", f"of {called}, over 40 images; 6 dB are one bit")
    assert shown["Largest difference"] == ("0.06", f"of {called}, in its own unit")
    markdown = render_markdown(report)
    page = render_html(report).partition('<section id="words">')[0].rpartition("<body")[2]
    for text in (markdown, page, render_junit([report])):
        assert "cosine" not in text.lower() and "logits" not in text
    assert f"error of {called}, largest" in markdown and "largest error" in markdown


def test_two_classes_keep_their_gate_and_are_told_by_sqnr() -> None:
    close = parity(np.array([[0.1, -0.1], [4.0, -4.0]]), np.array([[0.05, 0.02], [4.0, -4.0]]))
    labels = [tile.label for tile in tiles(of(close, "classify"))]
    assert "SQNR" in labels and "Largest difference" in labels and "Smallest cosine" not in labels
    gate = judge_gates(read_gates(min_cosine=0.99), parity=close)[-1]
    assert not gate.passed and gate.value == pytest.approx(close.cosine_min)


def test_a_gate_on_the_cosine_looks_at_the_outputs_that_have_one() -> None:
    gathered = ParityAccumulator(main="age", classify=False)
    rows = np.random.default_rng(0).normal(size=(8, 5))
    gathered.add_output("age", rows[:, :1], -rows[:, :1], list("abcdefgh"))
    gathered.add_output("map", rows, rows, list("abcdefgh"))
    close = gathered.result()
    gate = judge_gates(read_gates(min_cosine=0.99), parity=close)[-1]
    assert gate.passed and "Output map" in gate.reason
    labels = [tile.label for tile in tiles(of(close, "tensors"))]
    assert labels[:3] == ["Smallest cosine", "Lowest SQNR", "Largest difference"]


def test_engines_of_one_number_are_ranked_by_sqnr() -> None:
    better, worse = regressed(0.001), regressed(0.06, milliseconds=8.0)
    found = compare([better, worse])
    assert found.score_name == BY_SQNR and [entry.on_front for entry in found.entries] == [True, False]
    assert found.entries[0].score == pytest.approx(better.parity.sqnr_db if better.parity else 0.0)
    assert "55.4 dB" in render_comparison([better, worse])
    wide = of(parity(np.eye(5), np.eye(5)), "tensors")
    assert wide.parity is not None
    wide = of(wide.parity.model_copy(update={"top1_agreement": None}), "tensors")
    assert compare([wide]).score_name == BY_COSINE and compare([wide, better]).score_name == BY_SQNR
