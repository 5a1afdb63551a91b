"""Which row of a sweep is best under limits, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import Doc

from radixrt.fleet.front import quality_of
from radixrt.fleet.schema import Sweep, SweepRow


@dataclass(frozen=True, kw_only=True)
class ChooseOptions:
    """What the row must keep."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sweep: Annotated[Path, Doc("A sweep.json, or the folder that `radixrt sweep` left.")] = field(kw_only=False)
    max_p95_ms: Annotated[float | None, Field(gt=0), Doc("95th percentile of the latency, in milliseconds.")] = None
    max_p50_ms: Annotated[float | None, Field(gt=0), Doc("Median of the latency, in milliseconds.")] = None
    max_drop: Annotated[float | None, Field(ge=0), Doc("Points that the engine may be worse than its original.")] = None
    min_quality: Annotated[float | None, Doc("What the task's metric must reach, as sweep.json has it.")] = None
    max_engine_bytes: Annotated[int | None, Field(gt=0), Doc("Size of the engine's files.")] = None
    device: Annotated[str | None, Doc("Rows of this device, or of a machine with this in its name.")] = None
    model: Annotated[str | None, Doc("Rows of this network.")] = None
    precision: Annotated[str | None, Doc("Rows of this precision.")] = None
    target: Annotated[str | None, Doc("Rows of this target.")] = None


@dataclass(frozen=True)
class Choice:
    """The best row, the kept ones behind it, and each other row with the reason against it."""

    best: SweepRow | None
    others: tuple[tuple[SweepRow, str], ...]


def choose(sweep: Sweep, limits: ChooseOptions) -> Choice:
    """Takes the best quality; among equals the quickest, then the smallest.

    Without a limit on time, the row with the best quality wins however slow it is.
    """
    against = {row.name: next(_against(row, limits), "") for row in sweep.rows}
    kept = sorted((row for row in sweep.rows if not against[row.name]), key=_rank)
    best = kept[0] if kept else None
    others = [(row, _behind(row, best)) for row in kept[1:] if best]
    others += [(row, against[row.name]) for row in sweep.rows if against[row.name]]
    return Choice(best, tuple(others))


def _rank(row: SweepRow) -> tuple[float, float, float]:
    quality, figures = quality_of(row), row.figures
    assert figures is not None
    p50 = figures.p50_ms if figures.p50_ms is not None else float("inf")
    return (-(quality[1] if quality else float("-inf")), p50, figures.engine_bytes or float("inf"))


def _behind(row: SweepRow, best: SweepRow) -> str:
    mine, theirs = quality_of(row), quality_of(best)
    if mine and theirs and mine != theirs:
        return f"{mine[0]} {mine[1]:.4f}, of the best {theirs[1]:.4f}"
    a, b = row.figures, best.figures
    if a and b and a.p50_ms and b.p50_ms and a.p50_ms != b.p50_ms:
        return f"as good, and its median of {a.p50_ms:.3g} ms is above {b.p50_ms:.3g} ms"
    return "as good and as fast, and larger"


def _against(row: SweepRow, limits: ChooseOptions) -> Iterator[str]:
    for name in ("model", "precision", "target"):
        wanted, is_ = getattr(limits, name), getattr(row, name)
        if wanted is not None and wanted != is_:
            yield f"its {name} is {is_}"
    if limits.device is not None and limits.device != row.device and limits.device.lower() not in row.machine.lower():
        yield f"it is of {row.device or row.machine or 'no device yet'}"
    figures = row.figures
    if figures is None:
        yield row.reason or "it is not done yet"
        return
    if row.state == "missed":
        yield f"it missed a gate of the sweep: {row.reason}"
    for limit, value, what in (
        (limits.max_p95_ms, figures.p95_ms, "p95 (ms)"),
        (limits.max_p50_ms, figures.p50_ms, "median (ms)"),
        (limits.max_drop, figures.drop_points, "drop (points)"),
        (limits.max_engine_bytes, figures.engine_bytes, "size (bytes)"),
    ):
        if limit is not None and value is None:
            yield f"its {what} was not measured"
        elif limit is not None and value is not None and value > limit:
            yield f"its {what} is {value:.6g}, above {limit:.6g}"
        elif limit is not None and "ms" in what and figures.unsteady:
            yield f"its times were not steady: {figures.unsteady[0]}"
    if limits.min_quality is not None and (figures.quality is None or figures.quality < limits.min_quality):
        yield f"its quality is {figures.quality}, below {limits.min_quality}"
