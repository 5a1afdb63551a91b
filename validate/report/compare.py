"""Several reports on one page: model x precision x target, and which of them no other beats.

A report is on the Pareto front where no other is both at least as accurate and at least as fast, and better in one of
the two. Accuracy is the task's metric (top-1, mIoU, ...) where every executed report has the same one, and otherwise
the agreement with the original: the two are never mixed. Latencies of different machines are shown and called
incomparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from radixrt.errors import InputError
from radixrt.validate.gates import directed, engine_row, floating
from radixrt.validate.measure.rounds import ratio
from radixrt.validate.quality import main_metric
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
from radixrt.validate.report.rows import Row
from radixrt.validate.report.summary import (
    RANDOM_WEIGHTS,
    figure,
    headline,
    milliseconds,
    on_stand_in,
    percent,
    size,
    speedup,
    subject,
)
from radixrt.validate.schema import Parity, Report

if TYPE_CHECKING:
    import plotly.graph_objects as go

BETWEEN_RUNS = 1.1
"""Two runs of one engine on one machine, an hour or a week apart, differ by less than this."""
BY_AGREEMENT = "same answer as the original"
BY_COSINE = "smallest cosine to the original (the share of equal answers, where there are any)"
BY_SQNR = "lowest SQNR to the original in dB"
# Columns that are said once, above the table, where they are the same in every row.
SAID_ONCE = ("model", "precision", "target", "measured on", "weights")
LABEL_PLACES = ("top left", "bottom left", "top right", "bottom right")


@dataclass(frozen=True)
class Entry:
    """One report: the higher its ``score``, the better; ``latency_ms`` is for one image; absent where not measured."""

    report: Report
    score: float | None
    latency_ms: float | None
    on_front: bool

    @property
    def title(self) -> str:
        return f"{self.report.model.name}, {self.report.precision}, {self.report.target}"


@dataclass(frozen=True)
class Comparison:
    """All entries in the order given; ``score_name`` says what was compared, ``notes`` what must be known.

    ``metric`` is the name of the task's figure that was compared, where all that were executed have it.
    """

    entries: tuple[Entry, ...]
    score_name: str
    notes: tuple[str, ...]
    metric: str | None = None

    @property
    def share(self) -> bool:
        """Whether scores are shares from 0 to 1."""
        found = [main for entry in self.entries if (main := main_metric(entry.report.metrics)) is not None]
        return self.metric is None or all(main.share for main in found)


def compare(reports: Sequence[Report]) -> Comparison:
    """Finds the front.

    Raises:
        InputError: there is no report.
    """
    if not reports:
        raise InputError("nothing to compare: name at least one bundle")
    executed = [report for report in reports if report.executed]
    mains = [main_metric(report.metrics) for report in executed]
    names = {main.name if main else None for main in mains}
    metric = next(iter(names)) if len(names) == 1 else None
    labelled = metric is not None
    answers = all(report.parity is None or report.parity.top1_agreement is not None for report in executed)
    # One number a sample has no cosine: where a report has none, all are held against each other by SQNR.
    cosines = answers or all(report.parity is None or directed(report.parity) for report in executed)
    points = [(_score(report, labelled, cosines), _latency_ms(report)) for report in reports]
    entries = tuple(
        Entry(report, score, ms, _on_front(score, ms, points))
        for report, (score, ms) in zip(reports, points, strict=True)
    )
    notes = []
    if any(report.model.weights == "random" for report in reports):
        notes.append(f"{RANDOM_WEIGHTS} It concerns those whose weights column says random.")
    notes += _machines(executed)
    idle = [entry.title for entry in entries if not entry.report.executed]
    if idle:
        notes.append(f"Built and not executed here, so without a point in the plot: {'; '.join(idle)}.")
    if any(on_stand_in(report) for report in reports):
        notes.append(
            "Figures measured on the CPU stand-in are those of the same numbers run on a CPU, not of the engine."
        )
    if not labelled and len({report.model.name for report in executed}) > 1:
        notes.append("Each network's answers are held against its own original: that does not rank the networks.")
    counts = {main.samples for main in mains if main is not None}
    if len(counts) > 1:
        notes.append(f"The reports used different numbers of images ({', '.join(map(str, sorted(counts)))}).")
    title = f"{mains[0].title} of the engine" if labelled and mains[0] is not None else ""
    score = title or (BY_AGREEMENT if answers else BY_COSINE if cosines else BY_SQNR)
    return Comparison(entries, score, tuple(notes), metric)


def untold(entries: Sequence[Entry]) -> list[Entry]:
    """Those off the front that these measurements do not tell from what beats them.

    What beats them is not faster for certain (the interval of the two medians' ratio reaches what two
    runs of one engine differ by, or a run was not steady), and more accurate by less than half their interval.
    """

    def told(loser: Entry, winner: Entry) -> bool:
        assert loser.score is not None and winner.score is not None
        margin = _margin(loser.report)
        return _slower(loser.report, winner.report) or winner.score > loser.score + margin

    found = []
    for entry in entries:
        point = (entry.score, entry.latency_ms)
        winners = [e for e in entries if e is not entry and not _on_front(*point, [(e.score, e.latency_ms)])]
        if None not in point and winners and not any(told(entry, winner) for winner in winners):
            found.append(entry)
    return found


def _margin(report: Report) -> float:
    """Half the interval of the task's metric, in its own unit."""
    main = main_metric(report.metrics)
    if main is None or main.drop_ci95_points is None:
        return 0.0
    return (main.drop_points - main.drop_ci95_points[0]) / (100 if main.share else 1)


def _slower(report: Report, other: Report) -> bool:
    """Whether an engine is slower than another for certain; they were timed in runs of their own."""
    if report.latency is None or other.latency is None or report.latency.unsteady or other.latency.unsteady:
        return False
    one, two = ([ms / row.batch for ms in row.samples_ms] for row in map(engine_row, (report.latency, other.latency)))
    return ratio(one, two, paired=False).low > BETWEEN_RUNS


def _machines(executed: Sequence[Report]) -> list[str]:
    targets = dict.fromkeys(report.target for report in executed)
    # Each target has words of its own for one device, so these are held against each other within a target.
    devices = (("device", [report for report in executed if report.target == target]) for target in targets)
    groups: list[tuple[str, Sequence[Report]]] = [("processor", executed), *devices]
    notes = []
    for key, group in groups:
        values = sorted({report.environment[key] for report in group if key in report.environment})
        if len(values) > 1:
            notes.append(f"These latencies are not comparable: {key} differs ({'; '.join(values)}).")
    threads = sorted({report.latency.method.threads for report in executed if report.latency})
    if len(threads) > 1:
        said = ", ".join(str(count or "the runtime's choice") for count in threads)
        notes.append(f"These latencies are not comparable: the number of threads differs ({said}).")
    return list(dict.fromkeys(notes))


def render_comparison(reports: Sequence[Report]) -> str:
    """The comparison as one self-contained HTML page.

    Raises:
        InputError: there is no report.
    """
    comparison = compare(reports)
    rows = [_row(entry) for entry in comparison.entries]
    once = [i for i, name in enumerate(HEAD) if name in SAID_ONCE and len(rows) > 1 and len({r[i] for r in rows}) == 1]
    kept = [i for i in range(len(HEAD)) if i not in once]
    plots, measured = [], [e for e in comparison.entries if e.score is not None and e.latency_ms is not None]
    # One engine that was executed is better than none here; that is no verdict on it.
    alone = (measured or comparison.entries)[0] if 1 in (len(measured), len(reports)) else None
    if measured:
        label = f"{comparison.score_name} against latency, with the Pareto front"
        plots = [Plot("plot-front", label, 460, figure_json(_figure(comparison)))]
    return render_page(
        "compare_page.html",
        title="RadixRT comparison",
        plots=plots,
        comparison=comparison,
        once=", ".join(f"{HEAD[i]} {rows[0][i]}" for i in once),
        head=[HEAD[i] for i in kept],
        rows=[[row[i] for i in kept] for row in rows],
        numbers=[place for place, i in enumerate(kept) if HEAD[i] in NUMBERS],
        alone=headline(alone.report) if alone is not None else None,
        only=alone.title if alone is not None else "",
        untold=[entry.title for entry in untold(comparison.entries)],
        kept=any(e.on_front and headline(e.report).tone == "good" for e in comparison.entries),
        quality="accurate" if comparison.metric is not None else "close to the original",
        front=[f"{e.title} ({headline(e.report).title})" for e in comparison.entries if e.on_front],
        schema_version=reports[0].schema_version,
    )


HEAD = (
    "model", "precision", "target", "measured on", "front", "metric", "change (95\N{NO-BREAK SPACE}%)",
    "same answer", "cosine, smallest", "SQNR, lowest", "p50, one image", "p95", "speed-up", "engine",
    "weights", "verdict",
)  # fmt: skip

NUMBERS = HEAD[HEAD.index("metric") : HEAD.index("weights")]


def _row(entry: Entry) -> Row:
    report = entry.report
    main, parity, latency = main_metric(report.metrics), report.parity, report.latency
    absent = "" if report.executed else "-"
    changed = absent
    if main and main.delta_ci95_points is not None:
        spelt = "+.2f" if main.share else "+.4g"
        low, high = main.delta_ci95_points
        changed = f"{main.delta_points:{spelt}} ({low:{spelt}} to {high:{spelt}})"
    row = engine_row(latency) if latency else None
    return (
        report.model.name,
        report.precision,
        report.target,
        subject(report) if report.executed or on_stand_in(report) else "not executed",
        "yes" if entry.on_front else "",
        f"{main.title} {figure(main, main.engine)}" if main else absent,
        changed,
        percent(parity.top1_agreement) if parity and parity.top1_agreement is not None else absent,
        absent if parity is None else "" if parity.cosine_min is None else f"{parity.cosine_min:.4f}",
        f"{_sqnr_db(parity):.1f} dB" if parity else absent,
        milliseconds(row.p50_ms / row.batch) if row else absent,
        milliseconds(row.p95_ms / row.batch) if row else absent,
        speedup(latency) if latency else absent,
        "none yet" if report.size.engine_bytes is None else size(report.size.engine_bytes),
        report.model.weights,
        headline(report).title.partition(":")[0],
    )


def _sqnr_db(parity: Parity) -> float:
    """Of the output that is furthest off."""
    return min((output.sqnr_db for output in floating(parity)), default=parity.sqnr_db)


def _score(report: Report, labelled: bool, cosines: bool) -> float | None:
    if not report.executed:
        return None
    if labelled and (main := main_metric(report.metrics)) is not None:
        return main.engine if main.higher_is_better else -main.engine
    if report.parity is None:
        return None
    if not cosines:
        return _sqnr_db(report.parity)
    agreement = report.parity.top1_agreement
    return agreement if agreement is not None else min(directed(report.parity).values(), default=None)


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
    unit, scale = (" (%)", 100.0) if comparison.share else ("", 1.0)
    drawn = new_figure("median latency for one image (ms)", f"{comparison.score_name}{unit}")

    def height(entry: Entry) -> float:
        main = main_metric(entry.report.metrics) if comparison.metric is not None else None
        return (main.engine if main is not None else entry.score or 0.0) * scale

    if comparison.metric is not None and not all(m.higher_is_better for e in shown for m in e.report.metrics[:1]):
        drawn.update_yaxes(autorange="reversed")
    front = sorted((e for e in shown if e.on_front), key=lambda e: e.latency_ms or 0.0)
    drawn.add_scatter(
        x=[e.latency_ms for e in front], y=[height(e) for e in front], mode="lines", name="Pareto front",
        line={"color": OTHER, "width": 2, "dash": "dot", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    models = list(dict.fromkeys(e.report.model.name for e in shown))
    targets = list(dict.fromkeys(e.report.target for e in shown))
    # Engines often give the same answers in much the same time: neighbours put their labels on other sides.
    order = sorted(range(len(shown)), key=lambda i: shown[i].latency_ms or 0.0)
    places = {id(shown[i]): LABEL_PLACES[rank % len(LABEL_PLACES)] for rank, i in enumerate(order)}
    for model in models:
        for target in targets:
            group = [e for e in shown if e.report.model.name == model and e.report.target == target]
            if not group:
                continue
            bars = [main_metric(e.report.metrics) for e in group]
            spans = [(m.delta_points, *m.delta_ci95_points) for m in bars if m and m.delta_ci95_points is not None]
            intervals = None
            if comparison.metric is not None and len(spans) == len(group):
                # The interval is of the change against the original: it is drawn around the engine's own figure.
                intervals = {
                    "type": "data", "symmetric": False, "thickness": 1, "width": 4,
                    "array": [high - point for point, _, high in spans],
                    "arrayminus": [point - low for point, low, _ in spans],
                }  # fmt: skip
            colour = SERIES[models.index(model) % len(SERIES)]
            symbol = SYMBOLS[targets.index(target) % len(SYMBOLS)]
            drawn.add_scatter(
                x=[e.latency_ms for e in group],
                y=[height(e) for e in group],
                error_y=intervals,
                mode="markers+text",
                cliponaxis=False,
                text=[plain(e.report.precision) for e in group],
                textposition=[places[id(e)] for e in group],
                name=plain(f"{model}, {target}"),
                marker={
                    "size": 12,
                    "color": colour,
                    "symbol": [symbol if e.on_front else f"{symbol}-open" for e in group],
                    "line": {"width": 2},
                },
                hovertemplate="%{text}: %{x:.3f} ms, %{y:.4g}<extra>" + plain(f"{model}, {target}") + "</extra>",
            )
    times = [e.latency_ms or 0.0 for e in shown]
    if 0 < 10 * min(times) < max(times):
        set_log_axis(drawn, times)
    else:
        drawn.update_xaxes(rangemode="tozero")
    return drawn
