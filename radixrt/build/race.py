"""A race: what runs here is built and timed in one run, and the quickest that keeps the gates wins.

``TARGET=fastest`` lets every target race, ``PREC=auto`` every precision that a target's engines compute in here.

Times are compared only within a run: the engines take turns, round by round, so that a slow minute falls on all of
them alike, and a difference whose interval reaches 1 is called none.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from radixrt.build.target import Built, Job, Result, build, finish, report_on
from radixrt.engines.base import Target
from radixrt.engines.bundle.folder import BundleWriter
from radixrt.engines.registry import all_targets
from radixrt.errors import GateError, RadixRTError
from radixrt.export.spec import Precision
from radixrt.judge.engine import add_costs, judge_together
from radixrt.judge.verdict import Verdict
from radixrt.reuse import Kept
from radixrt.validate import gates
from radixrt.validate.measure.rounds import Ratio, ratio
from radixrt.validate.schema import Candidate, Finding, Latency, LatencyRow, Report


@dataclass(frozen=True)
class Entrant:
    """A target with a precision, where its bundle would go, and what it is called: several may share one place."""

    job: Job
    target: Target
    path: Path
    name: str


@dataclass
class Race:
    """How every entrant did, and the reports of those that were measured, where none of them kept the gates."""

    candidates: list[Candidate] = field(default_factory=list)
    losers: list[Report] = field(default_factory=list)


def run_race(entrants: Sequence[Entrant], race: Race) -> Result:
    """Builds every entrant, times them against each other, and finishes the winner's bundle.

    Args:
        entrants: who races, at least one.
        race: takes the table, also where nobody wins.

    Raises:
        InputError: no target takes the graph.
        GateError: nobody keeps the gates; nothing was written.
    """
    with ExitStack() as stack:
        # Held from the start: another build of the same bundle is refused now, not after minutes of measuring.
        writers = {path: stack.enter_context(BundleWriter(path)) for path in sorted({e.path for e in entrants})}
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radixrt-race-")))
        built, refused = _build_all(entrants, scratch)
        bench = entrants[0].job.bench
        kept = judge_together({entrant.name: b.files for entrant, b in built}, bench)
        runners = sorted(
            (_Runner.of(entrant, b, kept[entrant.name]) for entrant, b in built), key=lambda r: r.row.p50_ms
        )
        winner = next((runner for runner in runners if not runner.missed), None)
        race.candidates = [*(_measured(runner, winner) for runner in runners), *_others(entrants, refused)]
        if winner is None:
            race.losers = [report_on(r.entrant.job, r.built, r.kept, candidates=race.candidates) for r in runners]
            why = "; ".join(f"{c.target} {c.precision}: {c.reason}" for c in race.candidates if c.verdict == "failed")
            raise GateError(f"no target keeps the gates, so no bundle was written: {why}")
        verdict = add_costs(winner.kept.value, winner.built.files, bench)
        verdict = verdict.model_copy(update={"findings": [*slower_int8(race.candidates), *verdict.findings]})
        writer = writers[winner.entrant.path]
        return finish(winner.entrant.job, winner.built, Kept(verdict, winner.kept.reused), writer, race.candidates)


def _build_all(
    entrants: Sequence[Entrant], scratch: Path
) -> tuple[list[tuple[Entrant, Built]], list[tuple[Entrant, str]]]:
    """Builds every entrant; one whose target does not take the graph is left out with its reason.

    Raises:
        RadixRTError: none takes it; the first one's reason.
    """
    built: list[tuple[Entrant, Built]] = []
    refused: list[tuple[Entrant, str]] = []
    first: RadixRTError | None = None
    for index, entrant in enumerate(entrants):
        folder = scratch / str(index)
        folder.mkdir()
        try:
            built.append((entrant, build(entrant.job, entrant.target, folder)))
        except RadixRTError as error:
            first = first or error
            refused.append((entrant, str(error)))
            shutil.rmtree(folder)
    if not built:
        assert first is not None
        raise first
    return built, refused


@dataclass(frozen=True)
class _Runner:
    """An entrant that was measured; ``missed`` names the gates that it does not keep."""

    entrant: Entrant
    built: Built
    kept: Kept[Verdict]
    latency: Latency
    missed: str

    @classmethod
    def of(cls, entrant: Entrant, built: Built, kept: Kept[Verdict]) -> _Runner:
        assert kept.value.latency is not None
        metrics = bool(entrant.job.bench.prepared.task.task.metrics)
        judged = kept.value.gates(entrant.job.request.gates, built.size, has_metrics=metrics)
        return cls(entrant, built, kept, kept.value.latency, "" if gates.passed(judged) else gates.missed(judged))

    @property
    def name(self) -> str:
        return self.entrant.name

    @property
    def row(self) -> LatencyRow:
        return gates.engine_row(self.latency)


def _measured(runner: _Runner, winner: _Runner | None) -> Candidate:
    """An entrant that was timed, as the table shows it."""
    row = runner.row
    candidate = Candidate(
        target=runner.built.target.name,
        precision=runner.entrant.job.request.precision.value,
        version=runner.built.target.capability().version,
        verdict="passed",
        batch=row.batch,
        p50_ms=row.p50_ms,
        p95_ms=row.p95_ms,
        speedup=runner.latency.speedup_p50,
    )
    if runner.missed:
        return candidate.model_copy(update={"verdict": "failed", "reason": runner.missed})
    if runner is winner:
        return candidate.model_copy(update={"verdict": "chosen"})
    assert winner is not None
    said = why_slower(ratio(row.samples_ms, winner.row.samples_ms), winner.name, steady=not runner.latency.unsteady)
    return candidate.model_copy(update={"reason": said})


def why_slower(times: Ratio, winner: str, *, steady: bool) -> str:
    """Why an entrant was not chosen: how much longer than the winner it takes, and how sure that is."""
    doubt = "" if steady else ", with times that are not steady"
    if times.low <= 1:
        doubt = ": the two are not told apart"
    return f"takes {times.value:.2f} times as long as {winner} (95 %: {times.low:.2f} to {times.high:.2f}){doubt}"


def slower_int8(candidates: Sequence[Candidate]) -> list[Finding]:
    """That INT8 was timed in a race of precisions and is not the quickest on this machine, where that is so."""
    chosen = next((c for c in candidates if c.verdict == "chosen"), None)
    tried = [c for c in candidates if c.precision == Precision.INT8.value and c.p50_ms is not None]
    if chosen is None or chosen.p50_ms is None or not tried or chosen.precision == Precision.INT8.value:
        return []
    best = min(tried, key=lambda c: c.p50_ms or 0.0)
    why = f"does not keep the gates ({best.reason})" if best.verdict == "failed" else f"takes {best.p50_ms:.3g} ms"
    text = (
        f"INT8 is not the precision for this machine: {chosen.precision} on {chosen.target} takes "
        f"{chosen.p50_ms:.3g} ms, INT8 on {best.target} {why}, in the same run."
    )
    return [Finding(severity="remark", text=text)]


def _others(entrants: Sequence[Entrant], refused: Sequence[tuple[Entrant, str]]) -> list[Candidate]:
    """What was not timed, with the reason: entrants that could not be built, and targets that do not run here."""
    rows = [
        Candidate(
            target=entrant.target.name,
            precision=entrant.job.request.precision.value,
            version=entrant.target.capability().version,
            verdict="not built",
            reason=why,
        )
        for entrant, why in refused
    ]
    absent = (can for target in all_targets() if not (can := target.capability()).runs)
    return rows + [
        Candidate(target=can.target, version=can.version, verdict="not run here", reason=can.reason) for can in absent
    ]
