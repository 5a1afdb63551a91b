"""Several reports on one page: model x precision x target, and which of them no other beats.

A report is on the Pareto front where no other is both at least as accurate and at least as fast, and better in one of
the two. Accuracy is the engine's top-1 where every executed report has it, and otherwise the agreement with the
original: the two are never mixed. Latencies of different machines are shown and called incomparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from radixrt.errors import InputError
from radixrt.validate.figures import BAD, ENGINE, OTHER, REFERENCE, Plot, figure_json, new_figure, plain, set_log_axis
from radixrt.validate.gates import engine_row
from radixrt.validate.page_rows import Row
from radixrt.validate.report_html import render_page
from radixrt.validate.report_markdown import table
from radixrt.validate.schema import Report
from radixrt.validate.summary import RANDOM_WEIGHTS, milliseconds, on_twin, percent, size, subject, verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = (ENGINE, REFERENCE, OTHER, BAD)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
# What makes two latencies incomparable where it differs.
MACHINE_KEYS = ("cpu", "cpu_model", "device", "gpu", "machine", "threads", "cores", "host")


@dataclass(frozen=True)
class Entry:
    """One report: ``score`` is a share from 0 to 1 and ``latency_ms`` for one image; absent where not measured."""

    report: Report
    score: float | None
    latency_ms: float | None
    on_front: bool

    @property
    def title(self) -> str:
        return f"{self.report.model.name}, {self.report.precision}, {self.report.target}"


@dataclass(frozen=True)
class Comparison:
    """All entries in the order given; ``score_name`` says what was compared, ``notes`` what must be known."""

    entries: tuple[Entry, ...]
    score_name: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Page:
    plots: list[Plot]


def compare(reports: Sequence[Report]) -> Comparison:
    """Finds the front.

    Raises:
        InputError: there is no report.
    """
    if not reports:
        raise InputError("nothing to compare: name at least one bundle")
    executed = [report for report in reports if report.executed]
    labelled = bool(executed) and all(report.accuracy for report in executed)
    points = [(_score(report, labelled), _latency_ms(report)) for report in reports]
    entries = tuple(
        Entry(report, score, ms, _on_front(score, ms, points))
        for report, (score, ms) in zip(reports, points, strict=True)
    )
    notes = []
    if any(report.model.weights == "random" for report in reports):
        notes.append(f"{RANDOM_WEIGHTS} It concerns those whose weights column says random.")
    for key in MACHINE_KEYS:
        values = sorted({report.environment[key] for report in executed if key in report.environment})
        if len(values) > 1:
            notes.append(f"These latencies are not comparable: {key} differs ({'; '.join(values)}).")
    idle = [entry.title for entry in entries if not entry.report.executed]
    if idle:
        notes.append(f"Built and not executed here, so without a point in the plot: {'; '.join(idle)}.")
    if any(on_twin(report) for report in reports):
        notes.append("Figures measured on the CPU twin are those of the same numbers run on a CPU, not of the engine.")
    if not labelled and len({report.model.name for report in executed}) > 1:
        notes.append("Each network's answers are held against its own original: that does not rank the networks.")
    counts = {report.accuracy.samples for report in executed if report.accuracy}
    if len(counts) > 1:
        notes.append(f"The reports used different numbers of images ({', '.join(map(str, sorted(counts)))}).")
    return Comparison(entries, "top-1 of the engine" if labelled else "same answer as the original", tuple(notes))


def render_comparison(reports: Sequence[Report]) -> str:
    """The comparison as one self-contained HTML page.

    Raises:
        InputError: there is no report.
    """
    comparison = compare(reports)
    plots = []
    if any(e.score is not None and e.latency_ms is not None for e in comparison.entries):
        label = f"{comparison.score_name} against latency, with the Pareto front"
        plots = [Plot("plot-front", label, 460, figure_json(_figure(comparison)))]
    return render_page(
        "compare_page.html",
        title="RadixRT comparison",
        page=_Page(plots),
        comparison=comparison,
        head=HEAD,
        rows=[_row(entry) for entry in comparison.entries],
        kept=any(e.on_front and e.report.passed for e in comparison.entries),
        front=[f"{e.title} ({verdict(e.report).title})" for e in comparison.entries if e.on_front],
        schema_version=reports[0].schema_version,
    )


def render_comparison_markdown(reports: Sequence[Report]) -> str:
    """The comparison as a Markdown table.

    Raises:
        InputError: there is no report.
    """
    comparison = compare(reports)
    lines = ["# Comparison", ""]
    lines += [f"- {note}" for note in comparison.notes] + ([""] if comparison.notes else [])
    lines += table(HEAD, [_row(entry) for entry in comparison.entries])
    return "\n".join(lines).rstrip() + "\n"


HEAD = (
    "model", "precision", "target", "measured on", "front", "top-1", "change (points, 95 %)", "same answer",
    "cosine, smallest", "p50, one image", "p95", "speed-up", "engine", "weights", "verdict",
)  # fmt: skip


def _row(entry: Entry) -> Row:
    report = entry.report
    accuracy, parity, latency = report.accuracy, report.parity, report.latency
    absent = "" if report.executed else "-"
    change = absent
    if accuracy:
        low, high = (bound * 100 for bound in accuracy.delta_ci95)
        change = f"{accuracy.delta * 100:+.2f} ({low:+.2f} to {high:+.2f})"
    row = engine_row(latency) if latency else None
    return (
        report.model.name,
        report.precision,
        report.target,
        subject(report) if report.executed or on_twin(report) else "not executed",
        "yes" if entry.on_front else "",
        percent(accuracy.engine_top1) if accuracy else absent,
        change,
        percent(parity.top1_agreement) if parity else absent,
        f"{parity.cosine_min:.4f}" if parity else absent,
        milliseconds(row.p50_ms / row.batch) if row else absent,
        milliseconds(row.p95_ms / row.batch) if row else absent,
        f"{latency.speedup_p50:.2f}x ± {abs(latency.method.noise - 1) * 100:.1f} %" if latency else absent,
        size(report.size.engine_bytes),
        report.model.weights,
        verdict(report).title,
    )


def _score(report: Report, labelled: bool) -> float | None:
    if not report.executed:
        return None
    if labelled and report.accuracy:
        return report.accuracy.engine_top1
    return report.parity.top1_agreement if report.parity else None


def _latency_ms(report: Report) -> float | None:
    if report.latency is None:
        return None
    row = engine_row(report.latency)
    return row.p50_ms / row.batch


def _on_front(score: float | None, ms: float | None, points: Sequence[tuple[float | None, float | None]]) -> bool:
    if score is None or ms is None:
        return False
    return not any(
        other is not None and time is not None and other >= score and time <= ms and (other > score or time < ms)
        for other, time in points
    )


def _figure(comparison: Comparison) -> go.Figure:
    shown = [e for e in comparison.entries if e.score is not None and e.latency_ms is not None]
    figure = new_figure("median latency for one image (ms)", f"{comparison.score_name} (%)")
    front = sorted((e for e in shown if e.on_front), key=lambda e: e.latency_ms or 0.0)
    figure.add_scatter(
        x=[e.latency_ms for e in front], y=[(e.score or 0) * 100 for e in front], mode="lines", name="Pareto front",
        line={"color": OTHER, "width": 2, "dash": "dot", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    models = list(dict.fromkeys(e.report.model.name for e in shown))
    targets = list(dict.fromkeys(e.report.target for e in shown))
    groups: list[list[Entry]] = []
    for model in models:
        for target in targets:
            group = [e for e in shown if e.report.model.name == model and e.report.target == target]
            if not group:
                continue
            groups.append(group)
            bars = [e.report.accuracy for e in group]
            intervals = None
            if "top-1" in comparison.score_name and all(bars):
                # The interval is of the change against the original: it is drawn around the engine's own top-1.
                intervals = {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 4,
                    "array": [(a.delta_ci95[1] - a.delta) * 100 for a in bars if a],
                    "arrayminus": [(a.delta - a.delta_ci95[0]) * 100 for a in bars if a],
                }  # fmt: skip
            colour = COLOURS[models.index(model) % len(COLOURS)]
            symbol = SYMBOLS[targets.index(target) % len(SYMBOLS)]
            figure.add_scatter(
                x=[e.latency_ms for e in group],
                y=[(e.score or 0) * 100 for e in group],
                error_y=intervals,
                mode="markers+text",
                cliponaxis=False,
                text=[plain(e.report.precision) for e in group],
                # Two targets give the same precision much the same height: their labels part.
                textposition="top right" if len(groups) % 2 else "bottom right",
                name=plain(f"{model}, {target}"),
                marker={
                    "size": 12,
                    "color": colour,
                    "symbol": [symbol if e.on_front else f"{symbol}-open" for e in group],
                    "line": {"width": 2},
                },
                hovertemplate="%{text}: %{x:.3f} ms, %{y:.2f} %<extra>" + plain(f"{model}, {target}") + "</extra>",
            )
    times = [e.latency_ms or 0.0 for e in shown]
    if 0 < 10 * min(times) < max(times):
        set_log_axis(figure, times)
    else:
        figure.update_xaxes(rangemode="tozero")
    return figure
