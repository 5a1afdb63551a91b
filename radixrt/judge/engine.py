"""Engines that were built here are held against the original, alone or against each other.

Answers are kept from run to run; times are not: what changes from minute to minute is measured whenever it is told.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from radixrt.calibration.data.targets import identity_of
from radixrt.engines.base import BuildOptions, Target
from radixrt.engines.quiet import alone
from radixrt.engines.registry import runnable_targets
from radixrt.engines.runners import OutputsRunner, session_outputs
from radixrt.engines.session import Session
from radixrt.errors import RadixRTError
from radixrt.export.feed import length
from radixrt.export.spec import Precision
from radixrt.files import sha256_of
from radixrt.judge.measure import Trial, judge_outputs, time_engine, time_engines
from radixrt.judge.stand_in import judge_stand_in
from radixrt.judge.verdict import Verdict
from radixrt.machine import cores, machine
from radixrt.prepare.network import Prepared
from radixrt.progress import Stages
from radixrt.reuse import Codec, Kept, Reuse, Step, as_json
from radixrt.validate.measure.latency import ELSEWHERE, FLOAT32, in_float32, seen_from
from radixrt.validate.measure.throughput import throughput
from radixrt.validate.schema import Throughput
from radixrt.validate.tasks.base import OutputsJudged

STREAM_SECONDS = 3.0
"""How long several requests at once are timed."""


@dataclass(frozen=True)
class EngineFiles:
    """An engine and what it was made from.

    Attributes:
        files: the engine's, the first of which is the one to open; none where the device builds it.
        deploy: the deploy graph's file.
        float32: the graph that an FP32 engine beside an INT8 one is built from.
        options: those it was built with.
    """

    target: Target
    files: tuple[Path, ...]
    deploy: Path
    float32: ir.Model
    options: BuildOptions

    @property
    def runs(self) -> bool:
        """Whether the engine itself can be measured here; else its stand-in is."""
        return self.target.capability().runs


@dataclass(frozen=True)
class Bench:
    """What the engines of one run are held against, and how."""

    prepared: Prepared
    trial: Trial
    stages: Stages
    reuse: Reuse


def judge_engine(engine: EngineFiles, bench: Bench) -> Kept[Verdict]:
    """Holds the engine against the original, or its stand-in where the engine cannot run here.

    What it answers may be known from an earlier run; what it takes is measured in every run.
    """
    if not engine.runs:
        return _judge_stand_in(engine, bench)
    with _opened(engine) as session, beside(engine, bench) as others:
        answers = _answers(engine, session_outputs(session, bench.trial.batch), bench)
        times, notes = time_engine(session, bench.prepared, bench.trial, bench.stages, beside=others)
    verdict = Verdict.of(answers.value, times, notes)
    return Kept(add_costs(verdict, engine, bench), answers.reused)


def judge_together(engines: Mapping[str, EngineFiles], bench: Bench) -> dict[str, Kept[Verdict]]:
    """Holds every engine against the original, then times them all in one run. Costs are left to :func:`add_costs`.

    Returns:
        What was measured, by the names of the engines.
    """
    with ExitStack() as sessions:
        runners, answers = {}, {}
        for name, engine in engines.items():
            runners[name] = session_outputs(sessions.enter_context(_opened(engine)), bench.trial.batch)
            plain = sessions.enter_context(float_engine(engine, bench))
            runners |= {in_float32(name): run for run in plain.values()}
            answers[name] = _answers(engine, runners[name], bench, what=name)
        times, notes = time_engines(runners, bench.prepared, bench.trial, bench.stages)
    return {
        name: Kept(Verdict.of(kept.value, seen_from(times, name), notes), kept.reused) for name, kept in answers.items()
    }


def _answers(engine: EngineFiles, run: OutputsRunner, bench: Bench, what: str = "engine") -> Kept[OutputsJudged]:
    """What the engine answers: the same for the same files, images and libraries, so an earlier run may have it."""
    step = _step(f"{engine.target.name} answers", engine, engine.files, bench)
    return bench.reuse.step(step, lambda: judge_outputs(run, bench.prepared, bench.trial, bench.stages, what=what))


def _judge_stand_in(engine: EngineFiles, bench: Bench) -> Kept[Verdict]:
    def make() -> Verdict:
        return judge_stand_in(engine.deploy, engine.options, bench.prepared, bench.trial, bench.stages)

    step = _step(f"{engine.target.name} stand-in's answers", engine, (engine.deploy,), bench, as_json(Verdict))
    return bench.reuse.step(step, make)


def add_costs(verdict: Verdict, engine: EngineFiles, bench: Bench) -> Verdict:
    """Adds what an engine costs before its first answer, and the time of each of its layers.

    Raises:
        RadixRTError: a process of its own could not run the engine.
    """
    with bench.stages.stage("Profiling layers and the first inference"), alone():
        costs = bench.trial.instruments.costs
        verdict = costs(verdict, engine.target, engine.files[0], engine.deploy, engine.options)
    if verdict.latency is None or not bench.trial.streams:
        return verdict
    with bench.stages.stage(f"Timing {bench.trial.streams} requests at once"), alone():
        rows = list(_throughputs(engine, bench))
    return verdict.model_copy(update={"latency": verdict.latency.model_copy(update={"throughput": rows})})


def _throughputs(engine: EngineFiles, bench: Bench) -> Iterator[Throughput]:
    """One request at a time with all processors, then so many as were asked for, with an equal share each."""
    batch = bench.trial.batch.max
    feed = next(bench.prepared.test.batches(batch)).inputs
    every = engine.options.threads or cores()
    for streams in dict.fromkeys((1, bench.trial.streams)):
        threads = max(every // streams, 1)
        with ExitStack() as stack:
            sessions = [
                stack.enter_context(engine.target.open(engine.files[0], threads=threads)) for _ in range(streams)
            ]
            runs = [partial(session_outputs(session, bench.trial.batch), feed) for session in sessions]
            yield throughput(runs, length(feed), threads, STREAM_SECONDS)


def _opened(engine: EngineFiles) -> Session:
    return engine.target.open(engine.files[0], threads=engine.options.threads)


@contextmanager
def beside(engine: EngineFiles, bench: Bench) -> Iterator[dict[str, OutputsRunner]]:
    """What an engine is timed beside: :func:`float_engine`, and, where asked for, its graph on other runtimes."""
    others = [t for t in runnable_targets() if t.traits.cpu and t.name != engine.target.name]
    with float_engine(engine, bench) as found, ExitStack() as stack:
        for target in others if bench.trial.elsewhere and engine.target.traits.cpu else ():
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="radixrt-elsewhere-"))
            try:
                built = target.build(engine.deploy, Path(scratch), engine.options)
                session = stack.enter_context(target.open(built.files[0], threads=engine.options.threads))
            except RadixRTError:  # a graph that it does not take is nothing to offer
                continue
            found = {**found, ELSEWHERE + target.name: session_outputs(session, bench.trial.batch)}
        yield found


@contextmanager
def float_engine(engine: EngineFiles, bench: Bench) -> Iterator[dict[str, OutputsRunner]]:
    """What INT8 has to beat: the same graph in FP32 on the same runtime. Only where building it takes no time."""
    if engine.options.precision is not Precision.INT8 or not engine.target.traits.cpu:
        yield {}
        return
    options = replace(engine.options, precision=Precision.FP32)
    with (
        tempfile.TemporaryDirectory(prefix="radixrt-fp32-") as scratch,
        engine.target.open_graph(engine.float32, Path(scratch), options) as session,
    ):
        yield {FLOAT32: session_outputs(session, bench.trial.batch)}


def _step(
    name: str, engine: EngineFiles, files: Sequence[Path], bench: Bench, codec: Codec[Any] | None = None
) -> Step[Any]:
    """Answers hold for these files, these images, and this way of comparing."""
    prepared, trial, capability = bench.prepared, bench.trial, engine.target.capability()
    return Step(
        name,
        codec or as_json(OutputsJudged),
        inputs={
            "engine": " ".join(sha256_of(file) for file in files),
            "graph": prepared.graph_sha256,
            "images": prepared.test.prepared_sha256,
        },
        options={
            "engine": (capability.target, capability.version, capability.device, machine()),
            "precision": engine.options.precision.value,
            "original": prepared.model.source,
            "batch": str(trial.batch),
            "drop": [float(trial.limits.drop_limit), trial.limits.max_drop is not None],
            "images": prepared.test_images(trial.data),
            # The images' hash knows neither their names and order nor what they show.
            "test": [prepared.test.names, [identity_of(target) for target in prepared.test.targets or ()]],
            "classes": [prepared.labels, prepared.labelled, prepared.head.kind.value],
            "task": prepared.task.task.identity,
            "threads": trial.threads,
            "sides": str(prepared.sides),
            "since": trial.rivals.identity() if trial.limits.max_regression_drop is not None else (),
        },
    )
