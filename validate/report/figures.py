"""The page's plots, as plotly figures. Each says one thing at a glance; the numbers stand in a table beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from radixrt.validate.quality import Accuracy, Metric, main_metric
from radixrt.validate.report.summary import subject
from radixrt.validate.schema import DriftRow, Latency, LayerTime, Report

if TYPE_CHECKING:
    import plotly.graph_objects as go

# A colour stands for a role: the page's script replaces it by the style sheet's colour of the light or the dark theme.
ENGINE, REFERENCE, OTHER, BAD, GRID = "#0000e1", "#0000e2", "#0000e3", "#0000e4", "#0000e5"
SERIES = (ENGINE, REFERENCE, OTHER, BAD)
"""Colours that tell networks or precisions apart, in turn."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
"""Markers that tell targets apart, in turn."""
ROLES = {ENGINE: "--engine", REFERENCE: "--reference", OTHER: "--other", BAD: "--bad", GRID: "--line"}

MOST_BARS = 20
EXACT_DB = 90.0
MOST_CLASSES = 30
LONGEST_LABEL = 36


@dataclass(frozen=True)
class Plot:
    """One plot: ``name`` is its element's id, ``label`` what a screen reader says, ``json`` plotly's own format."""

    name: str
    label: str
    height: int
    json: str


def report_plots(report: Report) -> list[Plot]:
    """Every plot that a report has the numbers for."""
    return list(_plots(report))


def _plots(report: Report) -> Iterator[Plot]:
    who, original = subject(report), report.reference
    if (main := main_metric(report.metrics)) and main.delta_ci95_points is not None:
        limit = next((gate.limit for gate in report.gates if gate.name == "max_drop"), None)
        label = f"Change of {main.title} with its 95 % interval. {main.conclusion}"
        yield _plot("plot-accuracy", label, 170, _change(main, main.delta_ci95_points, limit, who, original))
    if (accuracy := report.accuracy) and len(accuracy.classes) > 1:
        rows = min(len(accuracy.classes), MOST_CLASSES)
        label = f"Top-1 per class, {original} and {who}"
        yield _plot("plot-classes", label, 120 + 26 * rows, _classes(accuracy, who, original))
    if latency := report.latency:
        names = list(dict.fromkeys(row.name for row in latency.rows))
        yield _plot(
            "plot-latency", "Distribution of latency for each runner", 130 + 64 * len(names), _latency(latency, names)
        )
        if len({row.batch for row in latency.rows}) > 1:
            yield _plot("plot-batch", "Throughput over the batch size", 320, _throughput(latency, names))
    if report.drift:
        yield _plot("plot-drift", "SQNR of each layer's output against its depth", 360, drift_figure(report.drift))
    if report.layer_times:
        rows = min(len(report.layer_times), MOST_BARS + 1)
        yield _plot("plot-layers", "Time per layer", 120 + 22 * rows, _layers(report.layer_times))


def _plot(name: str, label: str, height: int, figure: go.Figure) -> Plot:
    figure.update_layout(height=height)
    return Plot(name=name, label=label, height=height, json=figure_json(figure))


def figure_json(figure: go.Figure) -> str:
    """A figure as JSON that may stand inside a script element."""
    return str(figure.to_json()).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def new_figure(x_title: str, y_title: str = "") -> go.Figure:
    """An empty figure without plotly's own colours."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        margin={"l": 8, "r": 16, "t": 36, "b": 8},
        hovermode="closest",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        xaxis={
            "title": {"text": x_title, "standoff": 8, "font": {"size": 13}},
            "automargin": True,
            "gridcolor": GRID,
            "zeroline": False,
        },
        yaxis={
            "title": {"text": y_title, "standoff": 8, "font": {"size": 13}},
            "automargin": True,
            "gridcolor": GRID,
            "zeroline": False,
        },
    )
    return figure


def set_log_axis(figure: go.Figure, values: Sequence[float]) -> None:
    """A logarithmic x axis with its ticks written out: plotly's own leave out the power of ten."""
    low, high = min(values), max(values)
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for digit in (1, 2, 5)
        if 0.5 * low <= digit * 10.0**power <= 2 * high
    ]
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def plain(text: str) -> str:
    """A name from outside, short enough for a label: plotly reads a few HTML tags there, so none may come through."""
    if len(text) > LONGEST_LABEL:
        text = f"{text[: LONGEST_LABEL // 2]}\N{HORIZONTAL ELLIPSIS}{text[-LONGEST_LABEL // 2 :]}"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _apart(labels: list[str]) -> list[str]:
    """Makes equal labels differ, which a category axis would draw as one."""
    return [
        label if labels.count(label) == 1 else f"{label} #{labels[:i].count(label) + 1}"
        for i, label in enumerate(labels)
    ]


def _colour(index: int, count: int) -> str:
    return ENGINE if index == 0 else REFERENCE if index == count - 1 else OTHER


def _change(metric: Metric, interval: tuple[float, float], limit: float | None, who: str, original: str) -> go.Figure:
    low, high = interval
    point, unit = metric.delta_points, "points" if metric.share else "its own unit"
    figure = new_figure(f"change of {plain(metric.title)}, {who} minus {plain(original)} ({unit})")
    figure.add_scatter(
        x=[point],
        y=[who],
        mode="markers",
        marker={"size": 13, "color": ENGINE},
        error_x={
            "type": "data", "symmetric": False, "array": [high - point], "arrayminus": [point - low],
            "color": ENGINE, "thickness": 2.5, "width": 8,
        },
        hovertemplate=f"{point:+.4g}<br>95 %: {low:+.4g} to {high:+.4g}<extra></extra>",
        showlegend=False,
    )  # fmt: skip
    figure.add_vline(
        x=0, line={"color": REFERENCE, "width": 1.5}, annotation_text=plain(original), annotation_position="top"
    )
    edges = [low, high, 0.0]
    if limit is not None:
        worst = -limit if metric.higher_is_better else limit
        figure.add_vline(
            x=worst,
            line={"color": BAD, "width": 1.5, "dash": "dash"},
            annotation_text=f"limit {worst:g}",
            annotation_position="top",
        )
        edges.append(worst)
    span = max(edges) - min(edges)
    figure.update_xaxes(range=[min(edges) - 0.08 * span, max(edges) + 0.08 * span], ticksuffix="")
    figure.update_yaxes(showticklabels=False, showgrid=False)
    return figure


def _classes(accuracy: Accuracy, who: str, original: str) -> go.Figure:
    # The classes that changed most; the largest loss is drawn at the top.
    rows = sorted(accuracy.classes, key=lambda c: abs(c.engine_top1 - c.reference_top1), reverse=True)[:MOST_CLASSES]
    rows.sort(key=lambda c: c.engine_top1 - c.reference_top1, reverse=True)
    labels = _apart([f"{plain(row.label)} ({row.samples})" for row in rows])
    figure = new_figure("top-1 (%)")
    for row, label in zip(rows, labels, strict=True):
        figure.add_scatter(
            x=[row.reference_top1 * 100, row.engine_top1 * 100], y=[label, label], mode="lines",
            line={"color": OTHER, "width": 2}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    for name, colour, values, symbol in (
        (plain(original), REFERENCE, [row.reference_top1 * 100 for row in rows], "circle-open"),
        (who, ENGINE, [row.engine_top1 * 100 for row in rows], "circle"),
    ):
        figure.add_scatter(
            x=values, y=labels, mode="markers", name=name,
            marker={"color": colour, "size": 10, "symbol": symbol, "line": {"width": 2}},
            hovertemplate=f"%{{y}}: %{{x:.2f}} %<extra>{name}</extra>",
        )  # fmt: skip
    figure.update_yaxes(type="category")
    return figure


def _latency(latency: Latency, names: list[str]) -> go.Figure:
    batch = min(row.batch for row in latency.rows)
    figure = new_figure(f"latency at batch {batch} (ms), median of every timed round")
    shown = [row for row in latency.rows if row.batch == batch]
    for row in reversed(shown):
        figure.add_box(
            x=row.samples_ms or [row.p50_ms, row.p90_ms, row.p95_ms, row.p99_ms],
            name=plain(row.name),
            boxpoints="all", jitter=0.5, pointpos=0, orientation="h",
            marker={"color": _colour(names.index(row.name), len(names)), "size": 4, "opacity": 0.45},
            fillcolor="rgba(0,0,0,0)",
            line={"color": _colour(names.index(row.name), len(names)), "width": 2},
            showlegend=False,
            hovertemplate="%{x:.3f} ms<extra></extra>",
        )  # fmt: skip
    medians = [row.p50_ms for row in shown if row.p50_ms > 0]
    spread = [t for row in shown for t in row.samples_ms]
    if medians and max(medians) > 8 * min(medians) and min(spread, default=1.0) > 0:
        set_log_axis(figure, [t for row in shown for t in (row.samples_ms or [row.p50_ms, row.p99_ms])])
    else:
        figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(type="category", showgrid=False)
    return figure


def _throughput(latency: Latency, names: list[str]) -> go.Figure:
    figure = new_figure("batch size", "images per second")
    for index, name in enumerate(names):
        rows = [row for row in latency.rows if row.name == name]
        figure.add_scatter(
            x=[str(row.batch) for row in rows], y=[row.images_per_s for row in rows], name=plain(name),
            mode="lines+markers", line={"color": _colour(index, len(names)), "width": 2.5}, marker={"size": 8},
            hovertemplate="batch %{x}: %{y:.1f} images/s<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="category")
    figure.update_yaxes(rangemode="tozero")
    return figure


def drift_figure(rows: list[DriftRow]) -> go.Figure:
    """SQNR against depth, with the first drop named."""
    ordered = sorted(rows, key=lambda row: row.depth)
    # A float layer before the first quantiser is all but equal: at its height the others would lie on one line.
    inexact = [row for row in ordered if row.sqnr_db < EXACT_DB]
    ordered = inexact or ordered
    figure = new_figure("depth (layers from the input)", "SQNR (dB)")
    figure.add_scatter(
        x=[row.depth for row in ordered], y=[row.sqnr_db for row in ordered], mode="lines+markers",
        line={"color": ENGINE, "width": 2}, marker={"size": 6, "color": ENGINE}, name="SQNR", showlegend=False,
        text=[f"{plain(row.name)} ({plain(row.op_type)})" for row in ordered],
        customdata=[[row.rounding_share * 100, row.clipping_share * 100] for row in ordered],
        hovertemplate="%{text}<br>%{y:.1f} dB<br>own error: %{customdata[0]:.0f} % rounding, "
        "%{customdata[1]:.0f} % clipping<extra></extra>",
    )  # fmt: skip
    for row in ordered:
        if row.first_drop:
            figure.add_scatter(
                x=[row.depth], y=[row.sqnr_db], mode="markers", showlegend=False, hoverinfo="skip",
                marker={"size": 13, "color": BAD, "symbol": "circle-open", "line": {"width": 3}},
            )  # fmt: skip
            late = row.depth > 0.6 * max(r.depth for r in ordered)
            figure.add_annotation(
                x=row.depth, y=row.sqnr_db, text=f"first drop: {plain(row.name)}", showarrow=True, arrowhead=0,
                ax=-30 if late else 30, ay=32, xanchor="right" if late else "left", arrowcolor=BAD,
            )  # fmt: skip
    return figure


def _layers(times: list[LayerTime]) -> go.Figure:
    ordered = sorted(times, key=lambda row: row.ms, reverse=True)
    top = [(f"{plain(row.name)} ({plain(row.op_type)})", row.ms) for row in ordered[:MOST_BARS]]
    rest = ordered[MOST_BARS:]
    if rest:
        top.append((f"{len(rest)} other layers", sum(row.ms for row in rest)))
    names = _apart([name for name, _ in top])
    top = [(name, ms) for name, (_, ms) in zip(names, top, strict=True)]
    top.reverse()
    figure = new_figure("mean time (ms)")
    figure.add_bar(
        x=[ms for _, ms in top], y=[name for name, _ in top], orientation="h",
        marker={"color": [OTHER if rest and i == 0 else ENGINE for i in range(len(top))]},
        hovertemplate="%{y}: %{x:.3f} ms<extra></extra>", showlegend=False,
    )  # fmt: skip
    figure.update_yaxes(type="category", showgrid=False)
    return figure
