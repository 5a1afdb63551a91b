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

from pydantic import BaseModel, ConfigDict

from radixrt.build.target import (
    Built,
    Job,
    Result,
    build,
    finish,
    float_engine,
    judged_gates,
    judged_inputs,
    judged_options,
    make_report,
    moved,
    runs_on,
)
from radixrt.engines.bundle.folder import BundleWriter
from radixrt.engines.bundle.manifest import now
from radixrt.engines.registry import FASTEST, all_targets, get
from radixrt.engines.runners import session_outputs
from radixrt.errors import GateError, RadixRTError
from radixrt.files import sha256_of
from radixrt.judge.judge import Verdict, judge_outputs, time_engines, with_costs
from radixrt.validate import gates
from radixrt.validate.measure.findings import speed_findings
from radixrt.validate.measure.latency import in_float32, seen_from
from radixrt.validate.measure.rounds import ratio
from radixrt.validate.schema import Candidate, Latency, Report


class _Verdicts(BaseModel):
    """What one run measured, by target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdicts: dict[str, Verdict]


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
        writers = {path: stack.enter_context(BundleWriter(path, wait_s=0)) for path in sorted(set(paths.values()))}
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radixrt-race-")))
        built, refused = _build_all(job, paths, scratch)
        before = len(job.reuse.taken)
        verdicts = _measure(job, built)
        reused = tuple(job.reuse.taken[before:])
        passed = {b.target.name for b in built if gates.passed(judged_gates(job, b, verdicts[b.target.name]))}
        order = sorted(built, key=lambda b: _row_ms(verdicts[b.target.name]))
        winner = next((b for b in order if b.target.name in passed), None)
        race.candidates = [*_measured(job, order, verdicts, winner, passed), *_others(paths, refused)]
        if winner is None:
            race.losers = [make_report(job, b, verdicts[b.target.name], candidates=race.candidates) for b in order]
            why = "; ".join(f"{c.target}: {c.reason}" for c in race.candidates if c.verdict == "failed")
            raise GateError(f"no target keeps the gates, so no bundle was written: {why}")
        name, writer = winner.target.name, writers[paths[winner.target.name]]
        with job.stages.stage("Profiling layers and the first inference"):
            file, build_options = winner.engine.files[0], job.request.build
            verdict = with_costs(verdicts[name], winner.target, file, winner.deploy_file, build_options)
        return finish(job, moved(winner, writer.folder), verdict, writer, reused, race.candidates)


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


def _measure(job: Job, built: list[Built]) -> dict[str, Verdict]:
    """Holds every engine against the original, then times them all in one run."""
    key = job.reuse.key(
        "race",
        inputs={
            **{b.target.name: " ".join(sha256_of(file) for file in b.engine.files) for b in built},
            **judged_inputs(job),
        },
        options={"engines": [runs_on(b.capability) for b in built], **judged_options(job)},
    )
    found = job.reuse.find(key, f"{FASTEST} measurements")
    if found is None:

        def write(folder: Path) -> None:
            (folder / "verdicts.json").write_text(_Verdicts(verdicts=_judge_all(job, built)).model_dump_json())

        found = job.reuse.keep(key, f"{FASTEST} measurements", write)
    return _Verdicts.model_validate_json((found / "verdicts.json").read_bytes()).verdicts


def _judge_all(job: Job, built: list[Built]) -> dict[str, Verdict]:
    trial, verdicts = job.trial, {}
    with ExitStack() as sessions:
        runners = {}
        for b in built:
            name = b.target.name
            session = sessions.enter_context(b.target.open(b.engine.files[0], threads=trial.threads))
            runners[name] = session_outputs(session, trial.batch)
            beside = sessions.enter_context(float_engine(job, b))
            runners |= {in_float32(name): run for run in beside.values()}
            outputs = judge_outputs(runners[name], job.prepared, trial, job.stages, what=name)
            verdicts[name] = Verdict(
                measured=now(), parity=outputs.parity, accuracy=outputs.accuracy, findings=outputs.findings
            )
        latency, notes = time_engines(runners, job.prepared, trial, job.stages)
    return {name: _told(verdict, seen_from(latency, name), notes) for name, verdict in verdicts.items()}


def _told(verdict: Verdict, latency: Latency, notes: list[str]) -> Verdict:
    findings = [*verdict.findings, *speed_findings(latency)]
    return verdict.model_copy(update={"latency": latency, "findings": findings, "notes": notes})


def _row_ms(verdict: Verdict) -> float:
    assert verdict.latency is not None
    return gates.engine_row(verdict.latency).p50_ms


def _measured(
    job: Job, order: list[Built], verdicts: Mapping[str, Verdict], winner: Built | None, passed: set[str]
) -> list[Candidate]:
    """The targets that were timed, the quickest first."""
    rows = []
    for b in order:
        latency = verdicts[b.target.name].latency
        assert latency is not None
        row = gates.engine_row(latency)
        candidate = Candidate(
            target=b.target.name,
            version=b.capability.version,
            verdict="passed",
            batch=row.batch,
            p50_ms=row.p50_ms,
            p95_ms=row.p95_ms,
            speedup=latency.speedup_p50,
        )
        if b.target.name not in passed:
            missed = gates.missed(judged_gates(job, b, verdicts[b.target.name]))
            candidate = candidate.model_copy(update={"verdict": "failed", "reason": missed})
        elif b is winner:
            candidate = candidate.model_copy(update={"verdict": "chosen"})
        else:
            assert winner is not None
            best = verdicts[winner.target.name].latency
            assert best is not None
            times = ratio(row.samples_ms, gates.engine_row(best).samples_ms)
            doubt = "" if times.low > 1 and not latency.unsteady else ": the two are not told apart"
            interval = f"95 %: {times.low:.2f} to {times.high:.2f}"
            said = f"takes {times.value:.2f} times as long as {winner.target.name} ({interval}){doubt}"
            candidate = candidate.model_copy(update={"reason": said})
        rows.append(candidate)
    return rows


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
