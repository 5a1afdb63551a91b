"""Which of several equal graphs a target runs best, by the clock.

Every judge keeps the first candidate, the original, unless another wins by more than noise.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir

from radixrt.engines.forms.cache import Answer
from radixrt.engines.quiet import alone
from radixrt.engines.rounds import one_round
from radixrt.engines.session import Session
from radixrt.errors import InputError

Clock = Callable[[], float]


class Judge(Protocol):
    """Compares graphs of equal value on one target."""

    def __call__(self, candidates: Mapping[str, ir.Model]) -> Answer:
        """Returns the name of the best candidate; the first is the original."""
        ...


@dataclass(frozen=True)
class FormJudge:
    """A judge, and what its answers hold for: the device in words."""

    judge: Judge
    device: str


@dataclass(frozen=True)
class ClockRules:
    """How long the clock may take, and when it believes a difference.

    Attributes:
        budget_s: seconds for all candidates of one question, after warming up.
        min_rounds: rounds at least, whatever the budget.
        max_rounds: rounds at most.
        sample_s: a sample repeats a run until it lasts about this long, so that the clock's own cost vanishes.
        hopeless: a candidate whose best is this many times the original's worst after three rounds is dropped.
        min_noise: differences up to this share are never believed: other kernels, caches and threads around the
            convolution decide them in a whole network.
        max_noise: above this the machine is too busy to tell: the original stays, and the next build asks again.
    """

    budget_s: float = 0.3
    min_rounds: int = 7
    max_rounds: int = 31
    sample_s: float = 0.001
    hopeless: float = 1.5
    min_noise: float = 0.05
    max_noise: float = 0.25


def answer_by_clock(
    runs: Mapping[str, Callable[[], object]], rules: ClockRules | None = None, clock: Clock = time.perf_counter
) -> Answer:
    """Times candidates in turn, round by round, so that a machine that slows down slows down for all of them.

    The ratio is that of the medians. Noise is three standard errors of the median of the paired ratios, and never less
    than ``rules.min_noise``.

    Args:
        runs: one call each; the first is the original.
        rules: how long, and how sure.
        clock: seconds, monotonic.
    """
    rules = rules or ClockRules()
    original = next(iter(runs))
    for run in runs.values():
        run()
        run()
    ((_, single),) = one_round([(original, runs[original])], 0, clock)
    repeats = max(1, min(50, math.ceil(rules.sample_s / max(single, 1e-9))))
    slots = [(name, _repeated(run, repeats)) for name, run in runs.items()]
    times: dict[str, list[float]] = {name: [] for name in runs}
    started = clock()
    for done in range(1, rules.max_rounds + 1):
        for name, seconds in one_round(slots, done, clock):
            times[name].append(seconds / repeats)
        if done == 3:
            limit = rules.hopeless * max(times[original])
            slots = [(name, run) for name, run in slots if name == original or min(times[name]) <= limit]
        if len(slots) == 1 or (done >= rules.min_rounds and clock() - started > rules.budget_s):
            break
    return _judge_times(original, {name: times[name] for name, _ in slots}, rules)


def _repeated(run: Callable[[], object], times: int) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


def _judge_times(original: str, times: Mapping[str, list[float]], rules: ClockRules) -> Answer:
    base = statistics.median(times[original])
    ratios = {name: statistics.median(t) / base for name, t in times.items() if name != original}
    if not ratios:
        return Answer(form=original, why=f"every other form is far slower ({_ms(base)} as it is)")
    best = min(ratios, key=lambda name: ratios[name])
    paired = [b / a for a, b in zip(times[original], times[best], strict=True)]
    low, _, high = statistics.quantiles(paired, n=4)
    # 0.93 IQR / sqrt(n) is the standard error of a median of nearly normal samples.
    noise = max(rules.min_noise, 3 * 0.93 * (high - low) / math.sqrt(len(paired)))
    figures = f"{_ms(base * ratios[best])} against {_ms(base)}, noise {100 * noise:.0f} %"
    if noise > rules.max_noise:
        return Answer(form=original, why=f"the machine is too busy to tell forms apart ({figures})", settled=False)
    if ratios[best] < 1 - noise:
        return Answer(form=best, why=f"{1 / ratios[best]:.2f}x as fast as {original} ({figures})")
    return Answer(form=original, why=f"{best} is not faster by more than noise ({figures})")


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


class ClockJudge:
    """Runs each candidate on the target.

    Args:
        open_graph: opens a graph, given it and a folder of its own for files.
        rules: how long, and how sure.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        open_graph: Callable[[ir.Model, Path], Session],
        rules: ClockRules | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._open, self._rules, self._clock = open_graph, rules, clock

    def __call__(self, candidates: Mapping[str, ir.Model]) -> Answer:
        names = list(candidates)
        with tempfile.TemporaryDirectory(prefix="radixrt-forms-") as scratch, contextlib.ExitStack() as stack:
            runs: dict[str, Callable[[], object]] = {}
            for index, name in enumerate(names):
                folder = Path(scratch, str(index))
                folder.mkdir()
                try:
                    session = stack.enter_context(self._open(candidates[name], folder))
                except InputError as error:
                    if index == 0:
                        return Answer(form=name, why=f"could not be measured: {error}")
                    continue
                runs[name] = _bind(session)
            with alone():
                return answer_by_clock(runs, self._rules, self._clock)


def _bind(session: Session) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    feeds = {spec.name: rng.standard_normal(spec.shape).astype(spec.dtype) for spec in session.inputs}
    return lambda: session.run(feeds)
