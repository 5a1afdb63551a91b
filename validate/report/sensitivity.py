"""The page of ``radixrt sensitivity``: what each layer alone does to the outputs, against the work it could save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from radixrt.calibration.recovery.sensitivity import LayerSensitivity
from radixrt.validate.report.figures import ENGINE, EXACT_DB, Plot, figure_json, new_figure, plain
from radixrt.validate.report.html import render_page

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEAD = (
    "torch module",
    "operation",
    "SQNR (dB)",
    "multiplications (millions)",
    "share of INT8 work (%)",
    "INT8 saves (ms)",
)


def render_sensitivity(rows: Sequence[LayerSensitivity], *, title: str, method: str) -> str:
    """One self-contained HTML page.

    Args:
        rows: the layers, the most sensitive first.
        title: the page's heading.
        method: one sentence on how they were measured.
    """
    label = f"SQNR of the outputs when one layer is quantised, against {_x_axis(rows)}"
    plots = [Plot("plot-sensitivity", label, 460, figure_json(_figure(rows)))] if rows else []
    return render_page(
        "sensitivity_page.html",
        title=title,
        method=method,
        plots=plots,
        head=HEAD,
        rows=[
            (r.module, r.op_type, decibels(r.sqnr_db), f"{r.macs / 1e6:.1f}", f"{r.macs_share * 100:.1f}", saving(r))
            for r in rows
        ],
    )


def decibels(value: float) -> str:
    """An SQNR as a table shows it."""
    return "exact" if math.isinf(value) else f"{value:.1f}"


def saving(row: LayerSensitivity) -> str:
    """What INT8 saves in a layer, as a table shows it."""
    return "not measured" if row.latency_gain_ms is None else f"{row.latency_gain_ms:+.3f}"


def _measured(rows: Sequence[LayerSensitivity]) -> bool:
    return all(row.latency_gain_ms is not None for row in rows)


def _x_axis(rows: Sequence[LayerSensitivity]) -> str:
    return "what INT8 saves there (ms)" if _measured(rows) else "share of the INT8 multiplications (%)"


def _saved(row: LayerSensitivity, measured: bool) -> float:
    return (row.latency_gain_ms or 0.0) if measured else row.macs_share * 100


def _figure(rows: Sequence[LayerSensitivity]) -> go.Figure:
    measured = _measured(rows)
    figure = new_figure(_x_axis(rows), "SQNR of the outputs (dB)")
    figure.add_scatter(
        x=[_saved(row, measured) for row in rows],
        y=[min(row.sqnr_db, EXACT_DB) for row in rows],
        mode="markers",
        marker={"size": 9, "color": ENGINE, "opacity": 0.8},
        text=[f"{plain(row.module)} ({plain(row.op_type)})" for row in rows],
        hovertemplate="%{text}<br>%{y:.1f} dB, %{x:.3f} "
        + ("ms saved" if measured else "% of the work")
        + "<extra></extra>",
        showlegend=False,
    )
    for row in rows[:3]:
        figure.add_annotation(
            x=_saved(row, measured),
            y=min(row.sqnr_db, EXACT_DB),
            text=plain(row.module),
            showarrow=False,
            xanchor="left",
            xshift=9,
        )
    return figure
