"""Rows of a sweep that were never built, for what reads them."""

from __future__ import annotations

from typing import Any

from radixrt.fleet.schema import Cost, Figures, Sweep, SweepRow


def row(name: str = "net-int8-onnxruntime", state: str = "done", machine: str = "Xeon", **figures: Any) -> SweepRow:
    model, precision, target = name.split("-")[:3]
    known = {"metric": "Top-1", "quality": 0.9, "p50_ms": 2.0, "p95_ms": 3.0, "engine_bytes": 1000, "drop_points": 0.1}
    return SweepRow(
        name=name,
        key="k",
        model=model,
        precision=precision,
        target=target,
        batch="1",
        state=state,
        reason="" if state == "done" else "it cannot be",
        verdict="Passed",
        machine=machine,
        figures=Figures(**(known | figures)) if state in ("done", "missed") else None,
        cost=Cost(seconds=1, waited_s=0, timed_s=0.5, cpu_s=0.7) if state in ("done", "missed") else None,
    )


def sweep(*rows: SweepRow) -> Sweep:
    return Sweep(schema=1, created="2026-01-01T00:00:00+00:00", radixrt="0", command="c", passed=True, rows=list(rows))
