"""Latency of several runners on the same images, taken so that the machine's moods hit all of them alike.

Rounds are interleaved (:mod:`radixrt.validate.measure.rounds`): in each every runner runs for a while in a row,
starting with the next one in turn. A speed-up stands with the 95 % interval that the rounds themselves give, and with
the load that other processes made; times of a machine that did not calm down are marked as not steady, and no gate
judges them. Warm-up goes on until the medians of two neighbouring windows agree for every runner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from radixrt.engines.rounds import Slot
from radixrt.errors import InputError
from radixrt.export.feed import Feed, length, part
from radixrt.validate.measure.machine import readings, warnings
from radixrt.validate.measure.rounds import (
    WIDEST,
    Clock,
    Ratio,
    RoundRules,
    Rounds,
    ratio,
    take_round,
    take_rounds,
)
from radixrt.validate.schema import Latency, LatencyMethod, LatencyRow

Runner = Callable[[Feed], object]
"""Takes a batch of inputs by name and returns when the answer is in host memory."""

ENGINE = "engine"
FLOAT32 = "same graph in FP32"
ELSEWHERE = "same graph on "
"""What the name of a row begins with that is of another runtime, whose name follows."""
"""What the engine that a report is about is called among the runners."""

EARLIER = "bundle "
"""How the name of an earlier bundle's engine starts among the runners."""

WINDOW = 3
AS_GOOD = 0.05
"""Two throughputs that differ by a smaller share are as good as each other."""
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
        settle_s: each runner runs so long in a round before its times count.
        timed_s: it is timed so long then, back to back, once at least.
        threads: threads each runner uses, for the report; 0 means the runtime's choice.
    """

    baseline: str = ""
    batches: tuple[int, ...] = (1,)
    rounds: int = 20
    seconds: float = 20.0
    min_rounds: int = 10
    warmup_seconds: float = 10.0
    steady: float = 0.05
    settle_s: float = 0.02
    timed_s: float = 0.02
    threads: int = 0


@dataclass(frozen=True)
class _Timing:
    """One batch size: its rounds, and how the warm-up before them went."""

    rounds: Rounds
    warmup_rounds: int
    warm: bool


def measure(
    runners: Mapping[str, Runner],
    samples: Feed,
    options: LatencyOptions | None = None,
    *,
    clock: Clock | None = None,
) -> Latency:
    """Times runners against each other.

    Args:
        runners: by name, the engine first. Each takes a batch and returns when its answer is in host memory.
        samples: at least as many as the largest batch; each batch size takes the first ones.
        options: how to measure.
        clock: where time comes from.

    Raises:
        InputError: there is no runner, an unknown baseline, or there are too few samples.
    """
    options, clock = options or LatencyOptions(), clock or Clock()
    names = list(runners)
    baseline = options.baseline or (names[-1] if names else "")
    if baseline not in runners:
        raise InputError(f"no runner is named {baseline!r}: the baseline must be one of {', '.join(names) or 'none'}")
    batches = tuple(sorted(set(options.batches)))
    if not batches or batches[0] < 1 or batches[-1] > length(samples):
        raise InputError(f"batches {batches} need at least {max(batches, default=1)} samples, not {length(samples)}")

    before = clock.machine()
    timings = {}
    for batch in batches:
        timings[batch] = _measure_batch(runners, part(samples, 0, batch), options, clock, before.cores)
    after = clock.machine()

    rows = [row_of(name, batch, timings[batch].rounds.times[name]) for name in names for batch in batches]
    smallest = timings[batches[0]].rounds.times
    speedup = ratio(_medians(smallest[baseline]), _medians(smallest[names[0]]))
    found = warnings(before, after)
    if cold := [str(batch) for batch, timing in timings.items() if not timing.warm]:
        found.append(
            f"Times at batch {', '.join(cold)} still moved after {options.warmup_seconds:g} s of warm-up: "
            "look at their spread."
        )
    return Latency(
        rows=rows,
        speedup_p50=speedup.value,
        speedup_ci95=(speedup.low, speedup.high),
        unsteady=_unsteady(timings, speedup, before.cores),
        method=LatencyMethod(
            rounds=min(len(t.rounds.times[baseline]) for t in timings.values()),
            repeated_rounds=sum(t.rounds.repeated for t in timings.values()),
            warmup_rounds=max(t.warmup_rounds for t in timings.values()),
            settle_ms=options.settle_s * 1e3,
            timed_ms=options.timed_s * 1e3,
            threads=options.threads,
            interleaved=True,
            includes_transfers=True,
            baseline=baseline,
            others_cores=max(t.rounds.others_cores for t in timings.values()),
            load_before=before.load,
            load_after=after.load,
            warnings=found,
            machine=readings(before, after),
        ),
    )


def _unsteady(timings: Mapping[int, _Timing], speedup: Ratio, cores: int) -> list[str]:
    """Why these times are not to be judged by; nothing where they are."""
    reasons = []
    if busy := {batch: t.rounds for batch, t in timings.items() if t.rounds.disturbed}:
        others = max(rounds.others_cores for rounds in busy.values())
        reasons.append(
            f"other processes kept {others:.1f} of {cores} cores busy while batch {', '.join(map(str, busy))} was timed"
        )
    if speedup.high > WIDEST * speedup.low:
        reasons.append(f"the speed-up lies anywhere from {speedup.low:.2f}x to {speedup.high:.2f}x")
    return reasons


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
    speedup = ratio(base.samples_ms, smallest.samples_ms)
    new = {"rows": rows, "speedup_p50": speedup.value, "speedup_ci95": (speedup.low, speedup.high)}
    return latency.model_copy(update=new)


def best_batches(latency: Latency) -> tuple[int, ...]:
    """The engine's batch sizes that answer about as many images a second as the best of them, smallest first.

    None where batches gain nothing over single images, or nothing larger was timed.
    """
    engine = latency.rows[0].name
    rows = [row for row in latency.rows if row.name == engine]
    enough = max(row.images_per_s for row in rows) * (1 - AS_GOOD)
    best = sorted(row.batch for row in rows if row.images_per_s >= enough)
    return () if best[0] == 1 else tuple(best)


def _measure_batch(
    runners: Mapping[str, Runner],
    feed: Feed,
    options: LatencyOptions,
    clock: Clock,
    cores: int,
) -> _Timing:
    slots: list[Slot] = [(name, partial(run, feed)) for name, run in runners.items()]
    rules = RoundRules(options.rounds, options.min_rounds, options.seconds, options.settle_s, options.timed_s)
    warm: dict[str, list[float]] = {name: [] for name, _ in slots}
    began, turns, steady = clock.now(), 0, False
    while not steady:
        for name, seconds in take_round(slots, turns, rules, clock).items():
            warm[name].append(float(np.median(seconds)))
        turns += 1
        steady = turns >= 2 * WINDOW and all(_steady(times, options.steady) for times in warm.values())
        if clock.now() - began > options.warmup_seconds and turns >= 2:
            break
    rounds = take_rounds(slots, rules, clock, cores)
    return _Timing(rounds, turns, steady)


def _steady(times: Sequence[float], share: float) -> bool:
    last, earlier = np.median(times[-WINDOW:]), np.median(times[-2 * WINDOW : -WINDOW])
    return bool(abs(last - earlier) <= share * max(earlier, 1e-12))


def _medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    return [float(np.median(runs)) for runs in rounds]


def row_of(name: str, batch: int, rounds: Sequence[Sequence[float]]) -> LatencyRow:
    """The row of a runner at one batch size, from the seconds of each round's runs.

    The median is that of the rounds' medians, of which ratios are told; the other percentiles are of all runs.
    """
    samples = np.asarray(_medians(rounds)) * 1000
    p50 = float(np.median(samples))
    p90, p95, p99 = (float(v) for v in np.percentile(np.concatenate(rounds) * 1000, [90, 95, 99]))
    return LatencyRow(
        name=name,
        batch=batch,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        images_per_s=1000.0 * batch / p50 if p50 > 0 else 0.0,
        samples_ms=[round(float(v), 4) for v in samples[:SAMPLES_KEPT]],
    )
