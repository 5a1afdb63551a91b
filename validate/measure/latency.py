"""Latency of several runners on the same images, taken so that the machine's moods hit all of them alike.

Rounds are interleaved: each round runs every runner once, starting with the next one in turn, so that a slow minute or
a hot core does not fall on one runner alone. The baseline takes part twice in each round; the ratio of its two medians
is the noise of the whole measurement, and stands beside every ratio in the report: a speed-up closer to 1 than that
says nothing. Warm-up goes on until the medians of two neighbouring windows agree for every runner.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.errors import InputError
from radixrt.validate.measure.machine import MachineState, read_machine, readings, warnings
from radixrt.validate.schema import Latency, LatencyMethod, LatencyRow

Runner = Callable[[NDArray[Any]], object]
"""Takes a batch (N, C, H, W) and returns when the answer is in host memory."""

ENGINE = "engine"
FLOAT32 = "same graph in FP32"
"""What the engine that a report is about is called among the runners."""

WINDOW = 4
SAMPLES_KEPT = 400


@dataclass(frozen=True)
class LatencyOptions:
    """How to measure.

    Attributes:
        baseline: the runner whose median stands over the engine's; the last one where empty.
        batches: batch sizes to sweep, smallest first in the report.
        rounds: timed rounds for each batch size.
        seconds: a batch size stops after this long, once it has ``min_rounds``.
        min_rounds: fewest timed rounds; a 95th percentile of fewer would be a guess.
        warmup_seconds: warm-up gives up on steadiness after this long, and the report says so.
        steady: two windows are steady where their medians differ by less than this share.
        pause_s: rest between two runs, so that the worker threads of one runtime stop spinning before the next starts.
        threads: threads each runner uses, for the report; 0 means the runtime's choice.
        includes_transfers: host-to-device copies are part of the times.
        clock: which clock took the times, for the report.
    """

    baseline: str = ""
    batches: tuple[int, ...] = (1,)
    rounds: int = 50
    seconds: float = 20.0
    min_rounds: int = 10
    warmup_seconds: float = 10.0
    steady: float = 0.05
    pause_s: float = 0.02
    threads: int = 0
    includes_transfers: bool = True
    clock: str = "host"


@dataclass(frozen=True)
class Clock:
    """Where time comes from; a test puts its own here."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    machine: Callable[[], MachineState] = read_machine


@dataclass
class _Timing:
    """Timed seconds of one batch size by runner, and of the baseline's second run."""

    times: dict[str, list[float]]
    again: list[float]
    warmup_rounds: int
    steady: bool


def measure(
    runners: Mapping[str, Runner],
    images: NDArray[Any],
    options: LatencyOptions | None = None,
    *,
    clock: Clock | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Latency:
    """Times runners against each other.

    Args:
        runners: by name, the engine first. Each takes a batch and returns when its answer is in host memory.
        images: at least as many as the largest batch, (N, C, H, W); each batch size takes the first ones.
        options: how to measure.
        clock: where time comes from.
        progress: called with a stage in words, rounds done and rounds in all.

    Raises:
        InputError: there is no runner, an unknown baseline, or there are too few images.
    """
    options, clock = options or LatencyOptions(), clock or Clock()
    names = list(runners)
    baseline = options.baseline or (names[-1] if names else "")
    if baseline not in runners:
        raise InputError(f"no runner is named {baseline!r}: the baseline must be one of {', '.join(names) or 'none'}")
    batches = tuple(sorted(set(options.batches)))
    if not batches or batches[0] < 1 or batches[-1] > len(images):
        raise InputError(f"batches {batches} need at least {max(batches, default=1)} images, not {len(images)}")

    before = clock.machine()
    timings = {}
    for batch in batches:
        feed = np.ascontiguousarray(images[:batch])
        timings[batch] = _measure_batch(runners, baseline, feed, options, clock, progress)
    after = clock.machine()

    rows = [_row(name, batch, timings[batch].times[name]) for name in names for batch in batches]
    smallest = timings[batches[0]]
    median = {name: float(np.median(times)) for name, times in smallest.times.items()}
    again = float(np.median(smallest.again))
    found = warnings(before, after)
    if unsteady := [str(batch) for batch, timing in timings.items() if not timing.steady]:
        found.append(
            f"Times at batch {', '.join(unsteady)} were not steady after {options.warmup_seconds:g} s of warm-up: "
            "look at their spread."
        )
    return Latency(
        rows=rows,
        speedup_p50=_ratio(median[baseline], median[names[0]]),
        method=LatencyMethod(
            rounds=min(len(t.again) for t in timings.values()),
            warmup_rounds=max(t.warmup_rounds for t in timings.values()),
            threads=options.threads,
            interleaved=True,
            includes_transfers=options.includes_transfers,
            baseline=baseline,
            noise=_ratio(median[baseline], again),
            load_before=before.load,
            load_after=after.load,
            warnings=found,
            clock=options.clock,
            machine=readings(before, after),
        ),
    )


def in_float32(name: str) -> str:
    """What the same graph in FP32 is called where several engines are timed, each beside its own."""
    return f"{name}, {FLOAT32}"


def seen_from(latency: Latency, name: str) -> Latency:
    """The same run, told of another of its runners: its rows come first, as the engine's, and the speed-up is its own.

    Those of :func:`in_float32` of it come next, as the same graph's.

    Raises:
        InputError: no runner has that name.
    """
    own = [row for row in latency.rows if row.name == name]
    if not own:
        names = ", ".join(sorted({row.name for row in latency.rows}))
        raise InputError(f"no runner is named {name!r}: there are {names}")
    smallest = min(own, key=lambda row: row.batch)
    (base,) = (row for row in latency.rows if (row.name, row.batch) == (latency.method.baseline, smallest.batch))
    titles = {name: ENGINE, in_float32(name): FLOAT32}
    told = [row.model_copy(update={"name": titles.get(row.name, row.name)}) for row in latency.rows]
    # Sorting keeps the order of those that are alike.
    rows = sorted(told, key=lambda row: (row.name != ENGINE, row.name != FLOAT32))
    return latency.model_copy(update={"rows": rows, "speedup_p50": _ratio(base.p50_ms, smallest.p50_ms)})


def _measure_batch(
    runners: Mapping[str, Runner],
    baseline: str,
    feed: NDArray[Any],
    options: LatencyOptions,
    clock: Clock,
    progress: Callable[[str, int, int], None] | None,
) -> _Timing:
    slots: list[tuple[str, Runner]] = [*runners.items(), ("", runners[baseline])]

    def one_round(turn: int) -> list[tuple[str, float]]:
        taken = []
        for name, run in slots[turn % len(slots) :] + slots[: turn % len(slots)]:
            if options.pause_s:
                clock.sleep(options.pause_s)
            start = clock.now()
            run(feed)
            taken.append((name, clock.now() - start))
        return taken

    warm: dict[str, list[float]] = {name: [] for name, _ in slots}
    began, rounds, steady = clock.now(), 0, False
    while not steady:
        for name, seconds in one_round(rounds):
            warm[name].append(seconds)
        rounds += 1
        steady = rounds >= 2 * WINDOW and all(_steady(times, options.steady) for times in warm.values())
        if clock.now() - began > options.warmup_seconds and rounds >= 2:
            break

    timed: dict[str, list[float]] = {name: [] for name, _ in slots}
    began = clock.now()
    for turn in range(max(options.rounds, options.min_rounds)):
        if turn >= options.min_rounds and clock.now() - began > options.seconds:
            break
        for name, seconds in one_round(turn):
            timed[name].append(seconds)
        if progress:
            progress(f"latency, batch {len(feed)}", turn + 1, options.rounds)
    again = timed.pop("")
    return _Timing(times=timed, again=again, warmup_rounds=rounds, steady=steady)


def _steady(times: Sequence[float], share: float) -> bool:
    last, earlier = np.median(times[-WINDOW:]), np.median(times[-2 * WINDOW : -WINDOW])
    return bool(abs(last - earlier) <= share * max(earlier, 1e-12))


def _ratio(over: float, under: float) -> float:
    return over / under if under > 0 else 1.0


def _row(name: str, batch: int, seconds: Sequence[float]) -> LatencyRow:
    ms = np.asarray(seconds) * 1000
    p50, p90, p95, p99 = (float(v) for v in np.percentile(ms, [50, 90, 95, 99]))
    return LatencyRow(
        name=name,
        batch=batch,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        images_per_s=_ratio(1000.0 * batch, p50) if p50 > 0 else 0.0,
        samples_ms=[round(float(v), 4) for v in ms[:SAMPLES_KEPT]],
    )
