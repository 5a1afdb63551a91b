"""The Markdown report: the verdict first, nothing claimed of random weights, nothing from outside left raw."""

from __future__ import annotations

from radixrt.export.passes.report import RewriteReport
from radixrt.validate.gates import GateLimits
from radixrt.validate.report.html import render_html
from radixrt.validate.report.markdown import escape, render_markdown
from radixrt.validate.schema import Report, Size
from tests.validate.reports import make_report


def test_random_weights_are_the_first_line() -> None:
    assert "Weights are random: no accuracy is claimed" in render_markdown(make_report(weights="random")).split("\n")[0]
    assert "random" not in render_markdown(make_report())


def test_the_verdict_comes_before_everything_else() -> None:
    def verdict(report: Report) -> str:
        return render_markdown(report).split("\n")[2]

    assert verdict(make_report()) == "**Passed: the one gate was kept.**"
    assert verdict(make_report(limits=GateLimits(min_speedup=50))) == "**Failed: 1 of 2 gates not kept.**"
    assert verdict(make_report(executed=False)) == "**Built, not executed here.**"


def test_what_was_not_executed_shows_no_figure() -> None:
    text = render_markdown(make_report(executed=False, target="tensorrt-rtx"))
    assert "was not executed on this machine" in text
    for heading in ("## Accuracy", "## Parity", "## Latency", "## Drift"):
        assert heading not in text


# Nobody may take the figures of a CPU run for those of the plan: each place that shows one says what it is of.
def test_what_the_stand_in_answered_is_labelled_wherever_it_stands() -> None:
    report = make_report(stand_in=True, target="tensorrt-rtx", noise=0.3, limits=GateLimits(max_drop=90))
    text = render_markdown(report)
    assert text.split("\n")[2] == "**Built, not executed here; its CPU stand-in kept 1 gate.**"
    assert "measured on its CPU stand-in" in text and "and not on the engine" in text
    assert "## Accuracy of the CPU stand-in\n" in text and "## Parity of the CPU stand-in with PyTorch\n" in text
    assert "## Latency" not in text
    head = [line for line in text.split("\n") if line.startswith("| ") and "PyTorch" in line]
    assert head and not any("engine" in line for line in head)
    failed = make_report(stand_in=True, noise=0.3, limits=GateLimits(min_agreement=0.999))
    assert "gates not kept, measured on the CPU stand-in.**" in render_markdown(failed).split("\n")[2]


def test_every_part_is_there() -> None:
    text = render_markdown(make_report(noise=0.3))
    for heading in ("Gates", "Accuracy", "Parity with PyTorch", "Latency", "Drift", "Rewrite", "Origin"):
        assert f"## {heading}\n" in text
    for part in ("first drop", "layer1.0.conv2", "McNemar", "Other processes kept"):
        assert part in text


# Protects what the build decided: nothing that was chosen, and no node that was left, goes unsaid.
def test_every_decision_of_the_rewriter_stands_with_its_reason() -> None:
    text = render_markdown(make_report())
    for row in (
        "| layer1.0.conv2 | split | 2 | 1 | sigmoid gate | 1.10x |",
        "| layer1.0.conv2.conv | 2 | keep | fastest |",
        "| layer2.0.downsample.1 | one convolution | 1.20x as fast as pool |",
        "| layer3.0.conv1 | the weight reaches 1e+05 |",
    ):
        assert row in text


def test_names_from_outside_cannot_break_out() -> None:
    text = render_markdown(make_report(noise=0.3))
    assert "<script" not in text and "<img" not in text
    assert escape("a|b\n# c [x](y)") == r"a\|b \# c \[x\](y)"
    table_rows = [line for line in text.split("\n") if line.startswith("|")]
    assert table_rows and all(line.endswith(" |") for line in table_rows)


# A user pays for the copies, so they are in every other column; what is without them is a column of its own.
def test_kernels_alone_have_a_column_where_they_were_timed() -> None:
    report = make_report()
    assert report.latency is not None and "kernels alone" not in render_markdown(report)
    rows = [
        row.model_copy(update={"device_p50_ms": 1.25 if row.name == "engine" else None}) for row in report.latency.rows
    ]
    timed = report.model_copy(update={"latency": report.latency.model_copy(update={"rows": rows})})
    text = render_markdown(timed)
    assert "| kernels alone, p50 |" in text and "| 1.25 ms |" in text and "CUDA events" in text
    assert "kernels alone, p50" in render_html(timed)


# An engine that somebody else made was not rewritten here, and has no deploy graph: a page of zeros would be noise.
def test_an_engine_as_found_has_no_section_of_zeros() -> None:
    found = make_report().model_copy(
        update={"rewrite": RewriteReport(), "size": Size(deploy_onnx_bytes=0, engine_bytes=1_900_000)}
    )
    for text in (render_markdown(found), render_html(found)):
        assert "nodes became" not in text and "deploy graph 0 B" not in text and "as it was found" in text
