"""What a sweep leaves for people and programs beside ``sweep.json``: a page, a CSV and JUnit XML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.etree import ElementTree

from radixrt.fleet.front import Point, front, place, points, quality_of
from radixrt.fleet.schema import Sweep, SweepRow
from radixrt.fleet.since import since
from radixrt.validate.report.figures import (
    OTHER,
    SERIES,
    SYMBOLS,
    Plot,
    figure_json,
    new_figure,
    plain,
    set_log_axis,
)
from radixrt.validate.report.html import render_page
from radixrt.validate.report.junit import clean, xml_text
from radixrt.validate.report.summary import milliseconds, size

if TYPE_CHECKING:
    import plotly.graph_objects as go

SMALLEST, LARGEST = 8.0, 34.0
"""Diameters of the smallest and the largest engine's point."""
HEAD = (
    "row", "on", "front", "quality", "drop (points)", "p50", "p95", "speed-up",
    "engine", "others' load (cores)", "seconds", "verdict",
)  # fmt: skip
NUMBERS = tuple(HEAD.index(name) for name in HEAD[3:11])
FIELDS = (
    "name", "model", "precision", "target", "method", "batch", "device", "machine", "state", "metric", "quality",
    "reference_quality", "drop_points", "agreement", "cosine_min", "sqnr_db", "p50_ms", "p95_ms", "images_per_s",
    "speedup_p50", "engine_bytes", "measured_on", "others_cores", "unsteady", "seconds", "reason",
)  # fmt: skip


def render_csv(sweep: Sweep) -> str:
    """One line a row, for a spreadsheet."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(FIELDS)
    for row in sweep.rows:
        known = row.model_dump()
        known |= known["figures"] or {}
        known |= known["cost"] or {}
        known["unsteady"] = "; ".join(known.get("unsteady") or ())
        table.writerow("" if known.get(name) is None else known[name] for name in FIELDS)
    return stream.getvalue()


def render_junit(sweep: Sweep) -> str:
    """One case a row: a missed gate is a failure, a row that could not be built an error, one not done is skipped."""
    count = {state: sum(row.state == state for row in sweep.rows) for state in ("missed", "failed", "waiting")}
    suite = ElementTree.Element(
        "testsuite",
        name="radixrt sweep",
        tests=str(len(sweep.rows)),
        failures=str(count["missed"]),
        errors=str(count["failed"]),
        skipped=str(count["waiting"]),
        timestamp=sweep.created,
    )
    for row in sweep.rows:
        seconds = f"{row.cost.seconds:.3f}" if row.cost else "0"
        case = ElementTree.SubElement(suite, "testcase", classname="sweep", name=clean(row.name), time=seconds)
        if row.state == "missed":
            ElementTree.SubElement(case, "failure", message=clean(row.reason), type="GateError")
        elif row.state == "failed":
            ElementTree.SubElement(case, "error", message=clean(row.reason))
        elif row.state == "waiting":
            ElementTree.SubElement(case, "skipped", message="not done yet")
        else:
            ElementTree.SubElement(case, "system-out").text = clean(row.verdict)
    return xml_text(suite)


def render_page_of(sweep: Sweep, earlier: Sweep | None = None) -> str:
    """The sweep as one self-contained page whose rows open their reports.

    Args:
        sweep: what to show.
        earlier: a sweep to stand beside it.
    """
    groups = points(sweep.rows)
    best = {point.row.name for group in groups.values() for point in front(group)}
    plots = []
    for number, (title, group) in enumerate(groups.items()):
        label = f"{title}, against latency and size"
        plots.append(Plot(f"plot-front-{number}", label, 460, figure_json(_figure(group))))
    states = {state: sum(row.state == state for row in sweep.rows) for state in ("done", "missed", "failed", "waiting")}
    timed = {point.row.name for group in groups.values() for point in group}
    return render_page(
        "sweep_page.html",
        title="RadixRT sweep",
        plots=plots,
        states=states,
        total=len(sweep.rows),
        passed=sweep.passed,
        failed=[row for row in sweep.rows if row.state in ("failed", "missed")],
        untimed=[row.name for row in sweep.rows if row.finished and row.name not in timed],
        busy=[row.name for row in sweep.rows if row.figures and row.figures.unsteady],
        front=[f"{point.row.name} on {place(point.row)}" for group in groups.values() for point in front(group)],
        head=HEAD,
        numbers=NUMBERS,
        rows=[(_link(row), _cells(row, row.name in best)) for row in sweep.rows],
        since=since(earlier, sweep) if earlier else None,
        earlier=earlier,
        sweep=sweep,
    )


def _link(row: SweepRow) -> str:
    return f"{quote(row.name)}/report.html" if row.finished else ""


def _cells(row: SweepRow, on_front: bool) -> list[str]:
    figures, cost = row.figures, row.cost
    head = [row.name, place(row), "yes" if on_front else ""]
    if figures is None:
        return [*head, *([""] * 8), row.reason or "not done yet"]
    stand_in = "" if figures.measured_on == "engine" else " (stand-in)"
    quality = quality_of(row)
    return [
        *head,
        "" if quality is None else f"{quality}{stand_in}",
        "" if figures.drop_points is None else f"{figures.drop_points:+.2f}",
        "" if figures.p50_ms is None else milliseconds(figures.p50_ms) + (" *" if figures.unsteady else ""),
        "" if figures.p95_ms is None else milliseconds(figures.p95_ms),
        "" if figures.speedup_p50 is None else f"{figures.speedup_p50:.2f}x",
        "none yet" if figures.engine_bytes is None else size(figures.engine_bytes),
        "" if figures.others_cores is None else f"{figures.others_cores:.2f}",
        "" if cost is None else f"{cost.seconds:.0f}",
        row.reason or row.verdict,
    ]


def _figure(group: Sequence[Point]) -> go.Figure:
    """The points of one place and one metric."""
    quality = group[0].quality
    scale, unit = (100, " (%)") if quality.share else (1, "")
    figure = new_figure("median latency for one image (ms)", plain(f"{quality.title}{unit}"))
    if not quality.higher_is_better:
        figure.update_yaxes(autorange="reversed")
    best = front(group)
    # Size is not an axis: the line joins those of the front that nothing quicker is as good as.
    steps = [one for i, one in enumerate(best) if all(one.quality.rank > before.quality.rank for before in best[:i])]
    figure.add_scatter(
        x=[point.latency_ms for point in steps], y=[point.quality.value * scale for point in steps], mode="lines",
        name="Pareto front", line={"color": OTHER, "width": 1, "dash": "dot", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    precisions = list(dict.fromkeys(point.row.precision for point in group))
    targets = list(dict.fromkeys(point.row.target for point in group))
    largest = max(point.bytes for point in group)
    for precision in precisions:
        for target in targets:
            some = [p for p in group if (p.row.precision, p.row.target) == (precision, target)]
            if not some:
                continue
            symbol = SYMBOLS[targets.index(target) % len(SYMBOLS)]
            figure.add_scatter(
                x=[p.latency_ms for p in some],
                y=[p.quality.value * scale for p in some],
                mode="markers",
                cliponaxis=False,
                name=plain(f"{precision}, {target}"),
                text=[plain(p.row.name) for p in some],
                customdata=[size(p.bytes) for p in some],
                hovertemplate="%{text}: %{x:.3f} ms, %{y:.2f}, %{customdata}<extra></extra>",
                marker={
                    # An area, not a width, is seen as an amount.
                    "size": [max(SMALLEST, LARGEST * (p.bytes / largest) ** 0.5) for p in some],
                    "color": SERIES[precisions.index(precision) % len(SERIES)],
                    "symbol": [symbol if p in best else f"{symbol}-open" for p in some],
                    "line": {"width": 2},
                },
            )
    times = [point.latency_ms for point in group]
    if 0 < 10 * min(times) < max(times):
        set_log_axis(figure, times)
    else:
        figure.update_xaxes(rangemode="tozero")
    return figure
