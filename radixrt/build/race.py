"""``TARGET=fastest``: all targets that run here are built and timed in one run; the quickest that keeps the gates wins.

Times are compared only within a run: the engines take turns, round by round, so that a slow minute falls on all of
them alike, and a difference whose interval reaches 1 is called none.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from radixrt.build.target import Built, Job, Result, build, finish, report_on
from radixrt.engines.bundle.folder import BundleWriter
from radixrt.engines.registry import all_targets, get
from radixrt.errors import GateError, RadixRTError
from radixrt.judge.engine import add_costs, judge_together
from radixrt.judge.verdict import Verdict
from radixrt.reuse import Kept
from radixrt.validate import gates
from radixrt.validate.measure.rounds import ratio
from radixrt.validate.schema import Candidate, Latency, LatencyRow, Report


@dataclass
class Race:
    """How every target did, and the reports of those that were measured, where none of them kept the gates."""

    candidates: list[Candidate] = field(default_factory=list)
    losers: list[Report] = field(default_factory=list)


def run_race(job: Job, paths: Mapping[str, Path], race: Race) -> Result:
    """Builds every target of ``paths``, times them against each other, and finishes the winner's bundle.

    Args:
        job: what all targets share.
        paths: where each target's bundle would go; several may share one place.
        race: takes the table, also where nobody wins.

    Raises:
        InputError: no target takes the graph.
        GateError: no target keeps the gates; nothing was written.
    """
    with ExitStack() as stack:
        # Held from the start: another build of the same bundle is refused now, not after minutes of measuring.
        writers = {path: stack.enter_context(BundleWriter(path)) for path in sorted(set(paths.values()))}
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radixrt-race-")))
        built, refused = _build_all(job, paths, scratch)
        kept = judge_together([b.files for b in built], job.bench)
        runners = sorted((_Runner.of(job, b, kept[b.target.name]) for b in built), key=lambda r: r.row.p50_ms)
        winner = next((runner for runner in runners if not runner.missed), None)
        race.candidates = [*(_measured(runner, winner) for runner in runners), *_others(paths, refused)]
        if winner is None:
            race.losers = [report_on(job, r.built, r.kept, candidates=race.candidates) for r in runners]
            why = "; ".join(f"{c.target}: {c.reason}" for c in race.candidates if c.verdict == "failed")
            raise GateError(f"no target keeps the gates, so no bundle was written: {why}")
        verdict = add_costs(winner.kept.value, winner.built.files, job.bench)
        writer = writers[paths[winner.name]]
        return finish(job, winner.built, Kept(verdict, winner.kept.reused), writer, race.candidates)


def _build_all(job: Job, paths: Mapping[str, Path], scratch: Path) -> tuple[list[Built], dict[str, str]]:
    """Builds every target; one that does not take the graph is left out with its reason.

    Raises:
        RadixRTError: none takes it; the first one's reason.
    """
    built: list[Built] = []
    refused: dict[str, str] = {}
    first: RadixRTError | None = None
    for name in paths:
        folder = scratch / name
        folder.mkdir()
        try:
            built.append(build(job, get(name), folder))
        except RadixRTError as error:
            first = first or error
            refused[name] = str(error)
            shutil.rmtree(folder)
    if not built:
        assert first is not None
        raise first
    return built, refused


@dataclass(frozen=True)
class _Runner:
    """A target in the race; ``missed`` names the gates that it does not keep."""

    built: Built
    kept: Kept[Verdict]
    latency: Latency
    missed: str

    @classmethod
    def of(cls, job: Job, built: Built, kept: Kept[Verdict]) -> _Runner:
        assert kept.value.latency is not None
        judged = kept.value.gates(job.request.gates, built.size, has_metrics=bool(job.bench.prepared.task.task.metrics))
        return cls(built, kept, kept.value.latency, "" if gates.passed(judged) else gates.missed(judged))

    @property
    def name(self) -> str:
        return self.built.target.name

    @property
    def row(self) -> LatencyRow:
        return gates.engine_row(self.latency)


def _measured(runner: _Runner, winner: _Runner | None) -> Candidate:
    """A target that was timed, as the table shows it."""
    row = runner.row
    candidate = Candidate(
        target=runner.name,
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
    times = ratio(row.samples_ms, winner.row.samples_ms)
    doubt = "" if times.low > 1 and not runner.latency.unsteady else ": the two are not told apart"
    interval = f"95 %: {times.low:.2f} to {times.high:.2f}"
    said = f"takes {times.value:.2f} times as long as {winner.name} ({interval}){doubt}"
    return candidate.model_copy(update={"reason": said})


def _others(paths: Mapping[str, Path], refused: Mapping[str, str]) -> list[Candidate]:
    """The targets that were not timed, with the reason."""
    rows = []
    for target in all_targets():
        can = target.capability()
        if target.name in refused:
            rows.append(
                Candidate(target=target.name, version=can.version, verdict="not built", reason=refused[target.name])
            )
        elif target.name not in paths:
            rows.append(Candidate(target=target.name, version=can.version, verdict="not run here", reason=can.reason))
    return rows
