"""The page of ``radixrt sensitivity``: what each layer alone does to the logits, against the work it could save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from radixrt.calibration.sensitivity import LayerSensitivity
from radixrt.validate.figures import ENGINE, EXACT_DB, Plot, figure_json, new_figure, plain
from radixrt.validate.report_html import render_page

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEAD = ("torch module", "operation", "SQNR (dB)", "multiplications (millions)", "share of INT8 work (%)")


@dataclass(frozen=True)
class _Page:
    plots: list[Plot]


def render_sensitivity(rows: Sequence[LayerSensitivity], *, title: str, method: str) -> str:
    """One self-contained HTML page.

    Args:
        rows: the layers, the most sensitive first.
        title: the page's heading.
        method: one sentence on how they were measured.
    """
    label = "SQNR of the logits when one layer is quantised, against its share of the multiplications"
    plots = [Plot("plot-sensitivity", label, 460, figure_json(_figure(rows)))] if rows else []
    return render_page(
        "sensitivity_page.html",
        title=title,
        method=method,
        page=_Page(plots),
        head=HEAD,
        rows=[
            (r.module, r.op_type, decibels(r.sqnr_db), f"{r.macs / 1e6:.1f}", f"{r.macs_share * 100:.1f}") for r in rows
        ],
    )


def decibels(value: float) -> str:
    """An SQNR as a table shows it."""
    return "exact" if math.isinf(value) else f"{value:.1f}"


def _figure(rows: Sequence[LayerSensitivity]) -> go.Figure:
    figure = new_figure("share of the INT8 multiplications (%)", "SQNR of the logits (dB)")
    figure.add_scatter(
        x=[row.macs_share * 100 for row in rows],
        y=[min(row.sqnr_db, EXACT_DB) for row in rows],
        mode="markers",
        marker={"size": 9, "color": ENGINE, "opacity": 0.8},
        text=[f"{plain(row.module)} ({plain(row.op_type)})" for row in rows],
        hovertemplate="%{text}<br>%{y:.1f} dB, %{x:.2f} % of the work<extra></extra>",
        showlegend=False,
    )
    for row in rows[:3]:
        figure.add_annotation(
            x=row.macs_share * 100,
            y=min(row.sqnr_db, EXACT_DB),
            text=plain(row.module),
            showarrow=False,
            xanchor="left",
            xshift=9,
        )
    return figure
