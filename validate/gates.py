"""Limits that an engine must keep, and the judgement of each.

Times that were not steady judge nothing: a latency gate on them is not judged, and under ``strict`` it fails.

NaN and infinity in an engine's outputs, or in a layer of its deploy graph, fail a gate that nobody has to ask for.
It is only in the list where it fails.

A limit may also be on any figure by its name (``miou>=0.71``): those of the task, their drops, and those that every
task has (``figure_limit.py``).

A limit that could not be measured is not judged (``value`` is absent and the reason says why). On an engine that was
executed, a limit that the user asked for by hand and that could not be measured fails: a gate that silently does not
look is worse than none. On an engine that was built and not executed, its size is judged, and what its CPU stand-in
answers where that was measured: the reason of such a gate says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import Doc

from radixrt.errors import InputError
from radixrt.validate.figure_limit import FigureLimit, read_figure_limits
from radixrt.validate.measure.latency import EARLIER, FLOAT32
from radixrt.validate.measure.rounds import ratio
from radixrt.validate.quality import Metric, main_metric
from radixrt.validate.schema import (
    DriftRow,
    Gate,
    Latency,
    LatencyRow,
    MeasuredOn,
    OutputParity,
    Parity,
    Size,
    Unit,
)

# Python 3.10 has the same module under its older name.
tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

DEFAULT_MAX_DROP = 1.0
# Judged by outputs, so by the CPU stand-in where the engine was not executed.
OUTPUT_GATES = ("max_drop", "min_agreement", "min_cosine", "max_nonfinite_images")
LATENCY_GATES = ("max_p95_ms", "min_speedup", "max_regression_p50")
UNITS: dict[str, Unit] = {
    "max_drop": "points",
    "min_agreement": "share",
    "min_cosine": "cosine",
    "max_nonfinite_images": "images",
    "max_nonfinite_values": "values",
    "max_engine_bytes": "bytes",
    "max_p95_ms": "ms",
    "min_speedup": "times",
    "max_regression_p50": "percent",
    "max_regression_drop": "points",
}
NO_TRUTH = "a drop needs trained weights and labels that fit the task"
ON_STAND_IN = "Measured on the CPU stand-in of the same numbers, not on the engine."


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """Limits that the engine must keep; an absent one is not judged."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", revalidate_instances="always")

    max_drop: Annotated[
        float | None,
        Field(ge=0),
        Doc(
            "Points of the task's metric that the engine may lose (1.0): of top-1, of mIoU, ...; given to a build of "
            "int8, layers stay in float until that holds."
        ),
    ] = None
    min_cosine: Annotated[
        float | None, Field(ge=-1, le=1), Doc("Smallest cosine over all images, of the logits and every other output.")
    ] = None
    min_agreement: Annotated[float | None, Field(ge=0, le=1), Doc("Share of equal top-1 answers, 0 to 1.")] = None
    max_p95_ms: Annotated[
        float | None, Field(gt=0), Doc("95th percentile of the latency at the smallest batch, in milliseconds.")
    ] = None
    max_engine_bytes: Annotated[int | None, Field(gt=0), Doc("Size of the engine's files.")] = None
    min_speedup: Annotated[float | None, Field(gt=0), Doc("Median latency of the original over the engine's.")] = None
    max_regression_p50: Annotated[
        float | None,
        Field(ge=0),
        Doc("Percent by which the median latency may exceed that of each earlier bundle that --against names."),
    ] = None
    max_regression_drop: Annotated[
        float | None,
        Field(ge=0, le=100),
        Doc("Points of the task's metric that may be lost since each earlier bundle that --against names."),
    ] = None
    gate: Annotated[
        str | Sequence[str], Doc("A limit on any figure, such as miou>=0.71 or p95_ms<=8; may be given several times.")
    ] = ()
    strict: Annotated[
        bool, Doc("Judge the drop by the bound of its 95 % interval, and let unsteady times fail the gates of latency.")
    ] = False

    @property
    def drop_limit(self) -> float:
        """The limit on the drop of a share such as top-1, in points: the default where the user gave none."""
        return DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop

    def drop_of(self, share: bool) -> float | None:
        """The limit on the drop of a task's metric: a default holds only for a share, whose points have one meaning."""
        return self.drop_limit if share else self.max_drop

    @property
    def figures(self) -> tuple[FigureLimit, ...]:
        """The limits on figures by their names.

        Raises:
            InputError: one of them is not such a limit.
        """
        return read_figure_limits(self.gate)


def read_gates(path: Path | None = None, **options: float | int | bool | str | Sequence[str] | None) -> GateLimits:
    """Reads ``gates.toml`` (a flat table, or one under ``[gates]``); an option that is not ``None`` takes precedence.

    Raises:
        InputError: the file cannot be read, is not TOML, or a limit is unknown or out of its range.
    """
    table: dict[str, object] = {}
    if path is not None:
        try:
            loaded = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read the gates file {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is not a TOML file: {error}") from error
        inner = loaded.get("gates", loaded)
        table = inner if isinstance(inner, dict) else {"gates": inner}
    merged = {**table, **{k: v for k, v in options.items() if v is not None and v != ()}}
    try:
        limits = TypeAdapter(GateLimits).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(field.name for field in fields(GateLimits))
        where = f"{path}" if path is not None and name in table else "the options"
        raise InputError(f"bad gate {name!r} in {where}: {first['msg']}; the gates are {known}") from error
    read_figure_limits(limits.gate)
    return limits


def judge_gates(
    limits: GateLimits,
    *,
    parity: Parity | None = None,
    metrics: Sequence[Metric] = (),
    latency: Latency | None = None,
    size: Size | None = None,
    executed: bool = True,
    measured_on: MeasuredOn = "engine",
) -> list[Gate]:
    """Judges every limit that was asked for, and the default drop of one point of a main metric that is a share."""
    judged = list(_judge(limits, parity, metrics, latency, size, executed))
    for asked in limits.figures:
        value, missing = asked.value(parity, metrics, latency, size), f"{asked.figure} was not measured"
        kept = value is None and not executed if value is None else asked.keeps(value)
        why = (
            ""
            if value is not None
            else "Not judged: not executed here."
            if not executed
            else f"Cannot be judged: {missing}."
        )
        judged.append(asked.gate(value, kept, why))
    if measured_on == "engine":
        return judged
    return [
        gate.model_copy(update={"reason": f"{gate.reason} {ON_STAND_IN}".strip()})
        if of_outputs(gate) and gate.value is not None
        else gate
        for gate in judged
    ]


def judge_overflow(rows: Sequence[DriftRow]) -> list[Gate]:
    """A failed gate where a layer's values overflow in the types of the deploy graph, whatever this device made of it.

    A processor may compute FP16 in wider registers and answer well; another device will not.
    """
    first = min((row for row in rows if row.nonfinite), key=lambda row: row.depth, default=None)
    if first is None:
        return []
    reason = f"The output of {first.name} ({first.op_type}) becomes NaN or infinite in this precision."
    return [_gate("max_nonfinite_values", 0, first.nonfinite, False, reason)]


def passed(gates: list[Gate]) -> bool:
    """Whether no gate failed."""
    return all(gate.passed for gate in gates)


def missed(gates: list[Gate]) -> str:
    """The gates that failed, with what was measured, in words."""
    failed = []
    for gate in gates:
        if not gate.passed:
            measured = "not measured" if gate.value is None else f"{gate.value:{'.4g' if gate.value < 1e4 else '.0f'}}"
            failed.append(f"{gate.name} is {measured}, limit {gate.limit:g} ({gate.reason.rstrip('.')})")
    return "; ".join(failed)


def engine_row(latency: Latency) -> LatencyRow:
    """The engine's row at its smallest batch: the one that gates and the summary speak about."""
    engine = latency.rows[0].name
    return min((row for row in latency.rows if row.name == engine), key=lambda row: row.batch)


def float_row(latency: Latency) -> LatencyRow | None:
    """The row of the same graph in FP32 at the engine's smallest batch, where it was timed."""
    batch = engine_row(latency).batch
    return next((row for row in latency.rows if (row.name, row.batch) == (FLOAT32, batch)), None)


def slowed(latency: Latency) -> tuple[float | None, str]:
    """By how many percent the engine's median exceeds that of the earlier bundle that it does worst against.

    Returns:
        The percent, absent where none was timed, and a sentence with the interval over the rounds of this run.
    """
    own = engine_row(latency)
    earlier = [row for row in latency.rows if row.name.startswith(EARLIER) and row.batch == own.batch]
    if not earlier:
        return None, ""
    found = {row.name: ratio(own.samples_ms, row.samples_ms) for row in earlier}
    name = max(found, key=lambda one: found[one].value)
    value, low, high = (100 * (part - 1) for part in found[name])
    return value, f"Over {name}, in the same rounds; 95 % interval {low:+.1f} to {high:+.1f} %."


def floating(parity: Parity) -> list[OutputParity]:
    """The outputs that lie nearer or further; those of integers agree or do not."""
    return [output for output in parity.outputs if output.agreement is None]


def directed(parity: Parity) -> dict[str, float]:
    """The smallest cosine of each floating output, by name; an output of one number a sample has none."""
    return {one.name: one.cosine_min for one in floating(parity) if one.cosine_min is not None}


def of_outputs(gate: Gate) -> bool:
    """Whether a gate judges what an engine answers, and neither its speed nor its size."""
    return gate.name in OUTPUT_GATES or (gate.at_least is not None and gate.unit not in ("ms", "times", "bytes"))


def _judge(
    limits: GateLimits,
    parity: Parity | None,
    metrics: Sequence[Metric],
    latency: Latency | None,
    size: Size | None,
    executed: bool,
) -> Iterator[Gate]:
    def gate(
        name: str, limit: float | None, value: float | None, fits: Callable[[float, float], bool], missing: str, of: str
    ) -> Iterator[Gate]:
        if limit is None:
            return
        if value is None:
            if not executed:
                yield _gate(name, limit, None, True, "Not judged: not executed here.")
            else:
                yield _gate(name, limit, None, False, f"Cannot be judged: {missing}.")
            return
        yield _gate(name, limit, value, fits(value, limit), of)

    def at_least(value: float, limit: float) -> bool:
        return value >= limit

    def at_most(value: float, limit: float) -> bool:
        return value <= limit

    main = main_metric(metrics)
    if (limit := limits.drop_of(main is None or main.share)) is not None:
        yield _judge_drop(limits, limit, parity, main, executed)
    lost, since = None, ""
    if main and main.regressions:
        most = max(main.regressions, key=lambda one: one.drop_points)
        low, high = most.drop_ci95_points
        lost = high if limits.strict else most.drop_points
        since = f"Since {most.bundle}, on the same images; 95 % interval {low:+.2f} to {high:+.2f} points."
    absent = "no earlier bundle was compared on labelled images: name one with --against"
    yield from gate("max_regression_drop", limits.max_regression_drop, lost, at_most, absent, since)
    if parity and (bad := max([parity.nonfinite, *(output.nonfinite for output in parity.outputs)])):
        reason = f"Of {parity.samples} images, {bad} gave NaN or infinity."
        yield _gate("max_nonfinite_images", 0, bad, False, reason)
    agreement = parity.top1_agreement if parity else None
    images = f"Over {parity.samples} images." if parity else ""
    yield from gate("min_agreement", limits.min_agreement, agreement, at_least, "no parity was measured", images)
    cosine = parity.cosine_min if parity else None
    if parity and len(parity.outputs) > 1 and (cosines := directed(parity)):
        worst, cosine = min(cosines.items(), key=lambda one: one[1])
        images = f"Output {worst}, the worst of {len(parity.outputs)}, over {parity.samples} images."
    if parity and cosine is not None:
        for at in parity.sizes:
            if at.cosine_min is not None and at.cosine_min < cosine:
                cosine = at.cosine_min
                images = f"At {at.height} x {at.width}, over {at.samples} images."
    absent = "no output has more than one number a sample" if parity else "no parity was measured"
    yield from gate("min_cosine", limits.min_cosine, cosine, at_least, absent, images)
    engine_bytes = size.engine_bytes if size else None
    yield from gate("max_engine_bytes", limits.max_engine_bytes, engine_bytes, at_most, "no size is known", "")
    if latency is not None and latency.unsteady:
        yield from _unsteady(latency, limits)
        return
    p95 = speedup = None
    batch = interval = ""
    if latency:
        row, speedup, (low, high) = engine_row(latency), latency.speedup_p50, latency.speedup_ci95
        p95, batch = row.p95_ms, f"At batch {row.batch}."
        interval = f"Over {latency.method.baseline}; 95 % interval {low:.2f} to {high:.2f}."
    yield from gate("max_p95_ms", limits.max_p95_ms, p95, at_most, "no latency was measured", batch)
    yield from gate("min_speedup", limits.min_speedup, speedup, at_least, "no latency was measured", interval)
    slower, since = slowed(latency) if latency else (None, "")
    absent = "no earlier bundle was timed: name one with --against"
    yield from gate("max_regression_p50", limits.max_regression_p50, slower, at_most, absent, since)


def _unsteady(latency: Latency, limits: GateLimits) -> Iterator[Gate]:
    """The latency gates that were asked for, on times that are not to be judged by."""
    measured = (engine_row(latency).p95_ms, latency.speedup_p50, slowed(latency)[0])
    why = "; ".join(latency.unsteady)
    for name, value in zip(LATENCY_GATES, measured, strict=True):
        limit = getattr(limits, name)
        if limit is not None:
            seen = "" if value is None else f"; measured {value:.4g}"
            reason = f"Not judged: the times were not steady ({why}){seen}."
            yield _gate(name, limit, None, not limits.strict, reason)


def _judge_drop(limits: GateLimits, limit: float, parity: Parity | None, metric: Metric | None, executed: bool) -> Gate:
    if metric is None:
        reason = "not executed here" if parity is None and not executed else NO_TRUTH
        # The default gate does not fail where there is nothing to compare; one asked for by hand must be judged.
        skipped = limits.max_drop is None or not executed
        verb = "Not judged" if skipped else "Cannot be judged"
        return _gate("max_drop", limit, None, skipped, f"{verb}: {reason}.")
    drop, interval, unit = metric.drop_points, metric.drop_ci95_points, " points" if metric.share else ""
    of = "" if metric.name == "top1" else f" Of {metric.title}."
    if interval is None:
        return _gate("max_drop", limit, drop, drop <= limit + 1e-9, f"Judged by a single image.{of}")
    least, bound = interval
    # A drop of exactly the limit passes, whatever the last bit of the division says.
    within = (bound if limits.strict else drop) <= limit + 1e-9
    judged = "interval's bound" if limits.strict else "measured drop"
    if bound <= limit:
        proof = f"the 95 % interval's bound ({bound:.2f}{unit}) proves it"
    elif least > limit:
        proof = "the whole 95 % interval lies beyond the limit"
    else:
        needed = f"; about {metric.images_needed} would be enough" if metric.images_needed else ""
        proof = f"not proved: the 95 % interval reaches a drop of {bound:.2f}{unit} on {metric.samples} images{needed}"
    return _gate("max_drop", limit, bound if limits.strict else drop, within, f"Judged by the {judged}; {proof}.{of}")


def _gate(name: str, limit: float, value: float | None, kept: bool, reason: str) -> Gate:
    return Gate(name=name, unit=UNITS[name], limit=limit, value=value, passed=kept, reason=reason)
