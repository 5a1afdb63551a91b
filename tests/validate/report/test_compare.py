"""The Pareto front, and what must be said beside it."""

from __future__ import annotations

import pytest

from radixrt.errors import InputError
from radixrt.validate.report.compare import compare, render_comparison, untold
from radixrt.validate.schema import Report
from tests.validate.reports import make_report


def report(top1: float, milliseconds: float, precision: str = "int8") -> Report:
    made = make_report(milliseconds=milliseconds, precision=precision)
    return made.model_copy(update={"metrics": [made.metrics[0].model_copy(update={"engine": top1})]})


def test_front_holds_what_no_other_beats() -> None:
    slow_good, fast_good, fast_bad, fastest_worst = report(0.9, 8), report(0.9, 4), report(0.8, 5), report(0.7, 2)
    found = compare([slow_good, fast_good, fast_bad, fastest_worst])
    assert [entry.on_front for entry in found.entries] == [False, True, False, True]
    assert found.score_name == "top-1 of the engine"


def test_without_labels_everywhere_agreement_is_compared_instead() -> None:
    unlabelled = report(0.9, 4).model_copy(update={"metrics": []})
    found = compare([report(0.1, 5), unlabelled])
    assert found.score_name == "same answer as the original"
    assert all(e.report.parity and e.score == e.report.parity.top1_agreement for e in found.entries)
    page = render_comparison([entry.report for entry in found.entries])
    assert "both as close to the original" in page and "both as accurate" not in page


def test_a_figure_that_is_better_the_lower_it_is_and_has_its_own_unit() -> None:
    def error(value: float, milliseconds: float) -> Report:
        made = report(0.9, milliseconds)
        update = {"name": "mae", "title": "MAE", "share": False, "higher_is_better": False, "engine": value}
        return made.model_copy(update={"metrics": [made.metrics[0].model_copy(update=update)]})

    found = compare([error(2.0, 4), error(3.0, 4.5), error(2.5, 2)])
    assert [entry.on_front for entry in found.entries] == [True, False, True]
    assert found.score_name == "MAE of the engine" and not found.share
    page = render_comparison([entry.report for entry in found.entries])
    assert "MAE 2.5" in page and "MAE of the engine (%)" not in page
    # Figures of two tasks are never ranked against each other.
    assert compare([error(2.0, 4), report(0.9, 4)]).metric is None


def test_an_engine_that_was_not_executed_is_listed_without_a_point() -> None:
    found = compare([report(0.9, 4), make_report(executed=False, target="tensorrt-rtx")])
    idle = found.entries[1]
    assert (idle.score, idle.latency_ms, idle.on_front) == (None, None, False)
    assert any("not executed" in note for note in found.notes)
    assert "not executed" in render_comparison([r.report for r in found.entries])


def test_figures_of_a_stand_in_are_marked_and_have_no_point() -> None:
    found = compare([report(0.9, 4), make_report(stand_in=True, target="tensorrt-rtx")])
    assert (found.entries[1].score, found.entries[1].on_front) == (None, False)
    assert any("measured on the CPU stand-in" in note and "not of the engine" in note for note in found.notes)
    page = render_comparison([entry.report for entry in found.entries])
    row = page.partition('<th scope="row">tensorrt-rtx</th>')[2].partition("</tr>")[0]
    assert row.startswith("<td>CPU stand-in</td>") and "%" in row


def test_other_machines_and_random_weights_are_said() -> None:
    first = report(0.9, 4)
    here, there = (first.model_copy(update={"environment": {"processor": name}}) for name in ("this", "another"))
    assert any("not comparable" in note for note in compare([here, there]).notes)
    assert any("random" in note for note in compare([make_report(weights="random")]).notes)
    assert compare([first, report(0.8, 2)]).notes == ()


# OpenVINO names the processor where ONNX Runtime says "CPU": that is no other machine.
def test_a_target_may_call_the_device_as_it_likes() -> None:
    def on(device: str, target: str) -> Report:
        made = make_report(target=target)
        return made.model_copy(update={"environment": {"processor": "a processor", "device": device}})

    assert compare([on("CPU", "onnxruntime"), on("A Processor", "openvino")]).notes == ()
    assert any("device differs" in note for note in compare([on("CPU", "openvino"), on("GPU", "openvino")]).notes)


def test_another_number_of_threads_is_said() -> None:
    first = report(0.9, 4)
    assert first.latency
    method = first.latency.method.model_copy(update={"threads": 1})
    second = first.model_copy(update={"latency": first.latency.model_copy(update={"method": method})})
    (note,) = compare([first, second]).notes
    assert "threads differs (the runtime's choice, 1)" in note


def test_what_measurements_do_not_tell_apart_is_said() -> None:
    # Two runs of one engine differ by some percent, whatever their intervals: 4.05 ms cannot be told from 4.
    best, close, slow, bad = report(0.9, 4), report(0.9, 4.05), report(0.9, 5), report(0.5, 4.05)
    found = compare([best, close, slow, bad])
    assert [entry.on_front for entry in found.entries] == [True, False, False, False]
    assert [entry.report for entry in untold(found.entries)] == [close]
    # Times that were not steady tell nothing apart.
    assert slow.latency
    unsteady = slow.model_copy(update={"latency": slow.latency.model_copy(update={"unsteady": ["others were busy"]})})
    assert [entry.report for entry in untold(compare([best, unsteady]).entries)] == [unsteady]


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="at least one bundle"):
        compare([])
