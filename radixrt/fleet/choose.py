"""Which row of a sweep is best under limits, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import Doc

from radixrt.errors import InputError
from radixrt.fields import nearest
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
    min_quality: Annotated[
        float | None, Doc("What the task's metric must reach, as sweep.json has it; where less is better, stay below.")
    ] = None
    max_engine_bytes: Annotated[int | None, Field(gt=0), Doc("Size of the engine's files.")] = None
    device: Annotated[str | None, Doc("Rows of this device, or of a machine with this in its name.")] = None
    model: Annotated[str | None, Doc("Rows of this network, by its name or path.")] = None
    precision: Annotated[str | None, Doc("Rows of this precision.")] = None
    target: Annotated[str | None, Doc("Rows of this target.")] = None


@dataclass(frozen=True)
class Choice:
    """The best row, and each other one with the reason against it: those that keep the limits first."""

    best: SweepRow | None
    others: tuple[tuple[SweepRow, str], ...]


def choose(sweep: Sweep, limits: ChooseOptions) -> Choice:
    """Takes the best quality; among equals the quickest, then the smallest.

    Without a limit on time, the row with the best quality wins however slow it is.

    Raises:
        InputError: no row is of the device, network, precision or target that is named.
    """
    for name in ("device", "model", "precision", "target"):
        wanted = getattr(limits, name)
        if wanted is not None and not any(_is_of(row, name, wanted) for row in sweep.rows):
            there = sorted({names[0] for row in sweep.rows if (names := _names(row, name))})
            raise InputError(f"no row of the sweep is of the {name} {wanted}{nearest(wanted, there) if there else ''}")
    against = {row.name: next(_against(row, limits), "") for row in sweep.rows}
    kept = sorted((row for row in sweep.rows if not against[row.name]), key=_rank)
    best = kept[0] if kept else None
    others = [(row, _behind(row, best)) for row in kept[1:] if best]
    others += [(row, against[row.name]) for row in sweep.rows if against[row.name]]
    return Choice(best, tuple(others))


def _names(row: SweepRow, option: str) -> list[str]:
    """What a row may be called by an option, the shortest first."""
    names = {
        "device": [row.device, row.machine],
        "model": [row.title, row.model],
        "precision": [row.precision],
        "target": [row.target],
    }
    return [*filter(None, names[option])]


def _is_of(row: SweepRow, option: str, wanted: str) -> bool:
    return wanted in _names(row, option) or (option == "device" and wanted.lower() in row.machine.lower())


def _rank(row: SweepRow) -> tuple[float, float, float]:
    quality, figures = quality_of(row), row.figures
    assert figures is not None
    p50 = figures.p50_ms if figures.p50_ms is not None else float("inf")
    return (-quality.rank if quality else float("inf"), p50, figures.engine_bytes or float("inf"))


def _behind(row: SweepRow, best: SweepRow) -> str:
    mine, theirs = quality_of(row), quality_of(best)
    if mine and theirs and mine != theirs:
        return f"{mine.title} {mine}, of the best {theirs}"
    a, b = row.figures, best.figures
    if a and b and a.p50_ms and b.p50_ms and a.p50_ms != b.p50_ms:
        return f"as good, and its median of {a.p50_ms:.3g} ms is above {b.p50_ms:.3g} ms"
    return "as good and as fast, and larger"


def _against(row: SweepRow, limits: ChooseOptions) -> Iterator[str]:
    for name in ("device", "model", "precision", "target"):
        wanted = getattr(limits, name)
        if wanted is not None and not _is_of(row, name, wanted):
            yield f"its {name} is {next(iter(_names(row, name)), 'not known yet')}"
    figures = row.figures
    if figures is None:
        yield row.reason or "it is not done yet"
        return
    if row.state == "missed":
        yield f"it missed a gate of the sweep: {row.reason}"
    times = ((limits.max_p95_ms, figures.p95_ms, "p95 (ms)"), (limits.max_p50_ms, figures.p50_ms, "median (ms)"))
    others = (
        (limits.max_drop, figures.drop_points, "drop (points)"),
        (limits.max_engine_bytes, figures.engine_bytes, "size (bytes)"),
    )
    for limit, value, what in (*times, *others):
        if limit is not None and value is None:
            yield f"its {what} was not measured"
        elif limit is not None and value is not None and value > limit:
            yield f"its {what} is {value:.6g}, above {limit:.6g}"
    if figures.unsteady and any(limit is not None for limit, _, _ in times):
        yield f"its times were not steady: {figures.unsteady[0]}"
    if limits.min_quality is not None:
        if figures.quality is None:
            yield "its quality was not measured against labels"
        elif figures.higher_is_better and figures.quality < limits.min_quality:
            yield f"its quality is {figures.quality:.6g}, below {limits.min_quality:.6g}"
        elif not figures.higher_is_better and figures.quality > limits.min_quality:
            yield f"its {figures.metric} is {figures.quality:.6g}, above {limits.min_quality:.6g}"
