"""``report.md``: the report for a pull request or a terminal. Says the same as the page, without plots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from radixrt.validate.report import rows
from radixrt.validate.report.summary import (
    RANDOM_WEIGHTS,
    count,
    gate_limit,
    gate_state,
    gate_title,
    gate_value,
    headline,
    main_output,
    on_stand_in,
    subject,
    tiles,
)
from radixrt.validate.schema import Report

MOST_ROWS = 20


def render_markdown(report: Report) -> str:
    """The whole ``report.md``."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def escape(text: object) -> str:
    """Makes a name from outside (a file, a class, a node) harmless inside a table cell."""
    flat = re.sub(r"[\r\n\t]+", " ", str(text))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", flat)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A pipe table and the empty line after it."""
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(escape(cell) for cell in row) + " |"
    yield ""


def _lines(report: Report) -> Iterator[str]:
    if report.model.weights == "random":
        yield f"**{RANDOM_WEIGHTS}**"
        yield ""
    yield f"# {escape(report.model.name)}, {escape(report.precision)}, {escape(report.target)}"
    yield ""
    said = headline(report)
    yield f"**{said.title}.**"
    yield ""
    for sentence in (*said.sentences, *said.details):
        yield f"- {escape(sentence)}"
    yield ""
    yield from table(["", "", ""], [(t.label, t.value, t.note) for t in tiles(report)])
    yield from _gates(report)
    yield from _candidates(report)
    yield from _accuracy(report)
    yield from _parity(report)
    yield from _latency(report)
    yield from _drift(report)
    yield from _graph(report)
    yield from _images(report)
    yield from _origin(report)


def _gates(report: Report) -> Iterator[str]:
    yield "## Gates"
    yield ""
    judged = [(gate_title(g), gate_limit(g), gate_value(g), gate_state(g), g.reason) for g in report.gates]
    yield from table(["gate", "limit", "measured", "state", "why"], judged) if judged else ["None was asked for.", ""]


def _candidates(report: Report) -> Iterator[str]:
    if not report.candidates:
        return
    yield "## Targets tried"
    yield ""
    yield from table(rows.CANDIDATE_HEAD, rows.candidate_rows(report.candidates))
    yield escape(rows.candidate_method(report))
    yield ""


def _accuracy(report: Report) -> Iterator[str]:
    if not report.metrics:
        return
    who = subject(report)
    yield "## Accuracy of the CPU stand-in" if on_stand_in(report) else "## Accuracy"
    yield ""
    yield f"Over {count(report.metrics[0].samples, 'image')}; the task is {report.task}."
    yield ""
    yield from table(rows.metric_head(escape(report.reference), who), rows.metric_rows(report.metrics))
    for detail in report.tables:
        yield f"### {detail.title}"
        yield ""
        yield from filter(None, [detail.note])
        yield ""
        yield from _cut(len(detail.rows), "rows")
        yield from table([escape(name) for name in detail.head], detail.rows[:MOST_ROWS])
    if (accuracy := report.accuracy) is None:
        return
    yield f"{len(accuracy.flips)} answers changed; exact McNemar p = {accuracy.mcnemar_p:.3g}."
    yield ""
    yield from _cut(len(accuracy.classes), "classes, worst change first")
    head = ["class", "images", escape(report.reference), who, "change (points)"]
    yield from table(head, rows.class_rows(accuracy)[:MOST_ROWS])
    if accuracy.flips:
        yield from _cut(len(accuracy.flips), "changed answers, surest first")
        head = ["image", "label", escape(report.reference), "margin", who, "margin"]
        yield from table(head, rows.flip_rows(accuracy)[:MOST_ROWS])


def _parity(report: Report) -> Iterator[str]:
    if report.parity is None:
        return
    yield f"## Parity{' of the CPU stand-in' if on_stand_in(report) else ''} with {escape(report.reference)}"
    yield ""
    what = main_output(report.parity, report.task)
    yield from table([f"over {what}", ""], rows.parity_rows(report.parity, report.task))
    if outputs := rows.output_rows(report.parity):
        yield from table(rows.OUTPUT_HEAD, outputs)
    if report.parity.worst:
        head = rows.worst_head(report.parity, escape(report.reference), subject(report))
        yield from table(head, rows.worst_rows(report.parity))


def _latency(report: Report) -> Iterator[str]:
    if report.latency is None:
        return
    yield "## Latency"
    yield ""
    yield from table(rows.latency_head(report.latency), rows.latency_rows(report.latency))
    if report.latency.throughput:
        yield from table(rows.THROUGHPUT_HEAD, rows.throughput_rows(report.latency))
    yield escape(rows.latency_method(report.latency))
    yield ""
    yield from table(["machine", "before", "after"], rows.machine_rows(report.latency))


def _drift(report: Report) -> Iterator[str]:
    if not report.drift:
        return
    yield "## Drift"
    yield ""
    worst = sorted(report.drift, key=lambda row: row.sqnr_db)[:MOST_ROWS]
    yield from _cut(len(report.drift), "layers, those of lowest SQNR")
    head = ["layer", "op", "depth", "SQNR (dB)", "drop (dB)", "gain", "rounding", "clipping"]
    yield from table(head, rows.drift_rows(worst))


def _graph(report: Report) -> Iterator[str]:
    rewrite = report.rewrite
    if rewrite.nodes_before:
        yield "## Rewrite"
        yield ""
        yield (
            f"{len(rewrite.attention_blocks)} attention blocks lowered, {len(rewrite.refused)} places left alone; "
            f"{rewrite.nodes_before} nodes became {rewrite.nodes_after}; the proofs' largest difference is "
            f"{rewrite.max_abs_err:.3g}."
        )
        yield ""
    for head, body in (
        (rows.BLOCK_HEAD, rows.block_rows(report)),
        (rows.REFUSED_HEAD, rows.refused_rows(report)),
        (rows.GROUPED_CONV_HEAD, rows.grouped_conv_rows(report)),
        (rows.POOL_CONV_HEAD, rows.pool_conv_rows(report)),
        (rows.FLOAT32_HEAD, rows.float32_rows(report)),
    ):
        if body:
            yield from table(head, body)
    if quantization := rows.quantization_rows(report):
        yield "## Calibration and quantisation"
        yield ""
        yield from table(["", ""], quantization)


def _images(report: Report) -> Iterator[str]:
    if report.preprocessing:
        yield "## How images are prepared"
        yield ""
        yield from table(rows.PREPARATION_HEAD, rows.preparation_rows(report))


def _origin(report: Report) -> Iterator[str]:
    yield "## Origin"
    yield ""
    said = [("created", report.created), ("command", report.command), *rows.environment_rows(report)]
    yield from table(["", ""], said)
    for note in report.notes:
        yield f"- {escape(note)}"


def _cut(total: int, what: str) -> Iterator[str]:
    if total > MOST_ROWS:
        yield f"{MOST_ROWS} of {total} {what}; `report.json` has all."
        yield ""
