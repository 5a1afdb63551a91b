"""``radixrt sensitivity``: which layers INT8 hurts, and what leaving them in float would forgo."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

from radixrt.cli.app import out, stages, write_text
from radixrt.cli.command import command
from radixrt.options import SensitivityOptions

if TYPE_CHECKING:
    from radixrt.build.sensitivity import Sensitivity

BAR = 12


@command(SensitivityOptions)
def sensitivity(options: SensitivityOptions) -> None:
    """Runs ``radixrt sensitivity``."""
    from radixrt.build.sensitivity import measure_sensitivity
    from radixrt.request import SensitivityRequest
    from radixrt.validate.report.sensitivity import render_sensitivity

    found = measure_sensitivity(SensitivityRequest.of(options), stages())
    if options.html is not None:
        title = f"Sensitivity of {found.model}"
        write_text(options.html, render_sensitivity(found.rows, title=title, method=found.method))
    if options.json is not None:
        layers = [{**asdict(row), "sqnr_db": None if math.isinf(row.sqnr_db) else row.sqnr_db} for row in found.rows]
        content = {"model": options.model, "target": found.target, "images": found.images, "layers": layers}
        text = json.dumps(content, indent=2) + "\n"
        if str(options.json) == "-":
            print(text, end="")
            return
        write_text(options.json, text)
    _show(found, options.top)


def _show(found: Sensitivity, top: int | None) -> None:
    """Prints the most sensitive layers."""
    from radixrt.validate.report.sensitivity import decibels, saving

    rows = found.rows
    shown = rows[:top]
    grid = Table("torch module", "operation", "SQNR (dB)", "noise", "INT8 work (%)", "INT8 saves (ms)")
    grid.columns[0].overflow = "fold"  # a name cut short names nothing
    worst = max((row.noise for row in rows), default=1.0) or 1.0
    for row in shown:
        bar = "█" * round(BAR * (row.noise / worst) ** 0.5)  # amplitude: power would leave one bar only
        grid.add_row(row.module, row.op_type, decibels(row.sqnr_db), bar, f"{row.macs_share * 100:.1f}", saving(row))
    out.print(grid)
    if len(shown) < len(rows):
        out.print(f"{len(rows) - len(shown)} less sensitive layers are not shown")
    out.print(found.method, soft_wrap=True)
