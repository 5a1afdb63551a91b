"""Timed rounds: every runner for a while in a row, in turn, and a round that other work disturbed is taken again.

In a round each runner first runs unseen until it has settled, and then timed, back to back: the first runs behind
another runtime find the caches full of its data and their own threads asleep, and take up to twice as long. Nothing
rests: on cores that slept, a small network takes several times what it takes in work.

A ratio of two runners is told with an interval that comes from the rounds themselves, each with its median: both were
timed in each, so a slow minute falls on both, and what does not cancel out widens the interval. What no interval can
tell is a machine that was busy throughout: two engines that share their cores with other work differ by how well they
bear that. So the cores that other processes keep busy are counted in each stretch of rounds. A stretch with too much
is thrown away and repeated; if there is no end of it, the times are kept and marked as not steady, and nothing is
judged by them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from radixrt.engines.rounds import Slot, in_turn
from radixrt.validate.measure.machine import MOST_OTHERS
from radixrt.validate.measure.machine_state import CpuTime, MachineState, read_cpu, read_machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRETCH_S = 0.5
"""Rounds are kept or repeated together in stretches of this length: the system counts busy cores in hundredths of a
second, and a shorter look would see nothing but its own rounding."""
RESAMPLES = 2000
WIDEST = 1.5
"""An interval whose ends differ by more than this factor tells nothing that is worth judging."""


@dataclass(frozen=True)
class Clock:
    """Where time and the load come from; a test puts its own here."""

    now: Callable[[], float] = time.perf_counter
    machine: Callable[[], MachineState] = read_machine
    cpu: Callable[[], CpuTime | None] = read_cpu


@dataclass(frozen=True)
class RoundRules:
    """How many rounds to take, and how patiently.

    Attributes:
        rounds: undisturbed rounds wanted.
        min_rounds: taken however long they last.
        seconds: taking stops after this long, once there are ``min_rounds``.
        settle_s: each runner runs so long in a round before its times count.
        timed_s: it is timed so long then, once at least.
    """

    rounds: int
    min_rounds: int
    seconds: float
    settle_s: float
    timed_s: float


@dataclass
class Rounds:
    """Seconds by runner, paired by round.

    Attributes:
        times: of each round that counts, those of its runs.
        repeated: how many rounds were thrown away because other work disturbed them.
        others_cores: cores that other processes kept busy during the rounds that count, on average.
        disturbed: the rounds that count were disturbed too: the machine did not calm down.
    """

    times: dict[str, list[list[float]]]
    repeated: int
    others_cores: float
    disturbed: bool


Round = dict[str, list[float]]
"""The seconds of each runner's runs in one round, by its name."""


class Ratio(NamedTuple):
    """A ratio of two medians with its 95 % interval."""

    value: float
    low: float
    high: float


def take_round(slots: Sequence[Slot], turn: int, rules: RoundRules, clock: Clock) -> Round:
    """Takes one round: the seconds of each runner's runs, by name."""
    taken: Round = {}
    for name, run in in_turn(slots, turn):
        until = clock.now() + rules.settle_s
        while clock.now() < until:
            run()
        times: list[float] = []
        began = now = clock.now()
        while not times or now - began < rules.timed_s:
            start = now
            run()
            now = clock.now()
            times.append(now - start)
        taken[name] = times
    return taken


def take_rounds(
    slots: Sequence[Slot],
    rules: RoundRules,
    clock: Clock,
    cores: int,
) -> Rounds:
    """Takes rounds until enough were undisturbed, or as many again were not.

    Args:
        slots: runners by name.
        rules: how many, how long.
        clock: where time and the load come from.
        cores: how many this process may use; other work on more than a tenth of them disturbs.
    """
    kept: list[Round] = []
    thrown: list[Round] = []
    busy_kept: list[tuple[int, float]] = []
    busy_thrown: list[tuple[int, float]] = []
    wanted = max(rules.rounds, rules.min_rounds)
    began, turn = clock.now(), 0

    def more() -> bool:
        if len(kept) >= wanted or len(thrown) >= wanted:
            return False
        enough = max(len(kept), len(thrown)) >= rules.min_rounds
        return not (enough and clock.now() - began > rules.seconds)

    while more():
        stretch: list[Round] = []
        before, started = clock.cpu(), clock.now()
        while len(kept) + len(stretch) < wanted and (not stretch or clock.now() - started < STRETCH_S):
            stretch.append(take_round(slots, turn, rules, clock))
            turn += 1
        after = clock.cpu()
        others = after.others_since(before) if before and after else 0.0
        calm = others <= MOST_OTHERS * cores
        (kept if calm else thrown).extend(stretch)
        (busy_kept if calm else busy_thrown).append((len(stretch), others))
    disturbed = len(kept) < rules.min_rounds
    if disturbed:
        kept, busy_kept, thrown = kept + thrown, busy_kept + busy_thrown, []
    times = {name: [round_[name] for round_ in kept] for name, _ in slots}
    return Rounds(times, len(thrown), _mean(busy_kept), disturbed)


def ratio(over: Iterable[float], under: Iterable[float], *, paired: bool = True) -> Ratio:
    """The median of one runner over the median of another, with a bootstrap interval over rounds.

    Args:
        over: times of one, round by round: the median of each round's runs.
        under: times of the other; of the same rounds where they are ``paired``.
        paired: rounds are drawn as a whole, so that what slowed both cancels out. False for two separate runs.
    """
    from scipy.stats import bootstrap

    a, b = np.asarray(list(over), np.float64), np.asarray(list(under), np.float64)
    if min(len(a), len(b)) < 2 or not b.all():
        value = float(np.median(a) / np.median(b)) if len(a) and len(b) and np.median(b) > 0 else 1.0
        return Ratio(value, value, value)
    found = bootstrap(
        (a, b), _of_medians, paired=paired, vectorized=True, n_resamples=RESAMPLES, method="percentile", random_state=0
    ).confidence_interval
    return Ratio(float(_of_medians(a, b)), float(found.low), float(found.high))


def _of_medians(over: NDArray[Any], under: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    quotient: NDArray[Any] = np.median(over, axis=axis) / np.median(under, axis=axis)
    return quotient


def _mean(busy: Sequence[tuple[int, float]]) -> float:
    rounds = sum(count for count, _ in busy)
    return sum(count * cores for count, cores in busy) / rounds if rounds else 0.0
