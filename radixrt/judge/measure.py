"""Measures one open engine beside the reference: parity, accuracy and latency, on the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.engines.base import BuildOptions, Target
from radixrt.engines.quiet import alone
from radixrt.engines.runners import Outputs, OutputsRunner, engine_names, session_outputs
from radixrt.engines.session import Session
from radixrt.errors import InputError
from radixrt.export.feed import Feed, length, part, repeated
from radixrt.export.graph.output_kind import rowless
from radixrt.export.sides import free_middle
from radixrt.export.spec import BatchSpec
from radixrt.judge.at_sizes import at_other_sizes
from radixrt.judge.outputs import MatchedOutputs, match_outputs, one_at_a_time, uneven_rows, with_samples
from radixrt.judge.regression import regressions
from radixrt.judge.rivals import opponents
from radixrt.judge.verdict import Verdict
from radixrt.options import DataOptions
from radixrt.prepare.network import Prepared
from radixrt.progress import Stages
from radixrt.validate.gates import GateLimits
from radixrt.validate.measure.cold_start import cold_start
from radixrt.validate.measure.findings import input_findings
from radixrt.validate.measure.latency import ENGINE, LatencyOptions, measure
from radixrt.validate.measure.latency import Runner as TimedRunner
from radixrt.validate.rivals import Rivals
from radixrt.validate.schema import Finding, Latency, LatencyRow, LayerTime
from radixrt.validate.tasks.base import OutputsJudged, Trust


def with_costs(verdict: Verdict, target: Target, engine: Path, deploy: Path, build: BuildOptions) -> Verdict:
    """Adds what an engine costs before its first answer, and the time of each of its layers.

    Args:
        verdict: what was measured so far.
        target: what opens the engine.
        engine: the file that the target opens.
        deploy: the graph it was built from, for the layers' torch names.
        build: the options it was built with.

    Raises:
        RadixRTError: a process of its own could not run the engine.
    """
    cold = cold_start(target, engine, threads=build.threads, batch=build.batch.min, free=free_middle(build.sides))
    assert verdict.latency is not None
    method = verdict.latency.method
    if isinstance(cold, str):
        method = method.model_copy(update={"warnings": [*method.warnings, cold]})
    else:
        method = method.model_copy(update=cold.model_dump())
    rows = target.inspect(engine, deploy, build).rows
    times = [
        LayerTime(name=row.origin[0] if row.origin else row.name, op_type=row.kind, ms=row.mean_us / 1000)
        for row in rows
        if row.mean_us is not None
    ]
    return verdict.model_copy(
        update={
            "latency": verdict.latency.model_copy(update={"method": method}),
            "layer_times": sorted(times, key=lambda time: -time.ms),
        }
    )


@dataclass(frozen=True)
class Instruments:
    """What takes the times: of runners in turns, and of what an engine costs before its first answer."""

    timer: Callable[[Mapping[str, TimedRunner], Feed, LatencyOptions], Latency] = measure
    costs: Callable[[Verdict, Target, Path, Path, BuildOptions], Verdict] = with_costs


@dataclass(frozen=True)
class Trial:
    """How an engine is tried: batch sizes, images, the limits that conclusions speak about, timed rounds and rivals.

    ``threads`` are those of each runner, 0 for its own choice; ``elsewhere`` asks what the graph takes on the other
    runtimes of this processor, and ``streams`` for the throughput of so many requests at once.
    """

    batch: BatchSpec
    data: DataOptions
    limits: GateLimits
    rounds: int
    rivals: Rivals = field(default_factory=Rivals)
    threads: int = 0
    instruments: Instruments = field(default_factory=Instruments)
    elsewhere: bool = False
    streams: int = 0


def judge(
    session: Session, prepared: Prepared, trial: Trial, stages: Stages, engine_images: Samples | None = None
) -> Verdict:
    """Runs the engine and the reference over the test images, then times both.

    Args:
        session: the open engine.
        prepared: the original and its images.
        trial: how to try it.
        stages: where progress is shown.
        engine_images: the same files as the engine prepares them, where that is not how the reference does.

    Raises:
        InputError: there is no image to judge with, or more than 5 % of them are unreadable.
    """
    outputs = judge_outputs(session_outputs(session, trial.batch), prepared, trial, stages, engine_images)
    return Verdict.of(outputs, *time_engine(session, prepared, trial, stages, engine_images))


def time_engine(
    session: Session,
    prepared: Prepared,
    trial: Trial,
    stages: Stages,
    engine_images: Samples | None = None,
    beside: Mapping[str, OutputsRunner] | None = None,
) -> tuple[Latency, list[str]]:
    """Times one open engine as :func:`time_engines` does, with its kernels alone; ``beside`` are others, by name."""
    engines = {ENGINE: session_outputs(session, trial.batch), **(beside or {})}
    times, notes = time_engines(engines, prepared, trial, stages, engine_images)
    images = _exactly(engine_images or prepared.test, trial.batch.max)
    with alone():
        rows = [on_device(row, session, images, trial.rounds) for row in times.rows]
    return times.model_copy(update={"rows": rows}), [*([session.remark] if session.remark else []), *notes]


def time_engines(
    engines: Mapping[str, OutputsRunner],
    prepared: Prepared,
    trial: Trial,
    stages: Stages,
    engine_images: Samples | None = None,
) -> tuple[Latency, list[str]]:
    """Times engines, their rivals and the reference in turns.

    Args:
        engines: runners by name, the first of which the speed-up is of.
        prepared: the original and its images.
        trial: how to try them.
        stages: where progress is shown.
        engine_images: the same files as the engines prepare them, where that is not how the reference does.

    Returns:
        The times, and sentences on what was not timed.
    """
    reference = prepared.reference
    with stages.stage(f"Timing, interleaved with {reference.name}"):
        sizes, notes = trial.rivals.sizes(trial.batch)
        few, theirs = (_exactly(images, trial.batch.max) for images in (engine_images or prepared.test, prepared.test))
        options = LatencyOptions(baseline=reference.name, batches=sizes, rounds=trial.rounds, threads=trial.threads)
        with (
            alone(),
            reference.timed(trial.threads) as run,
            opponents(trial.rivals.names, prepared.model.module, prepared.inputs, few, sizes, trial.threads) as rivals,
        ):

            def original(feed: Feed) -> Outputs:
                return run(part(theirs, 0, length(feed)))

            times = trial.instruments.timer({**engines, **rivals.runners, reference.name: original}, few, options)
    if prepared.sides is not None and prepared.preprocess is not None:
        method = times.method.model_copy(update={"image": prepared.preprocess.input_size[1:]})
        times = times.model_copy(update={"method": method})
    return times, [*notes, *rivals.notes, *([reference.remark] if reference.remark else [])]


def judge_outputs(
    run: OutputsRunner,
    prepared: Prepared,
    trial: Trial,
    stages: Stages,
    engine_images: Samples | None = None,
    what: str = "engine",
) -> OutputsJudged:
    """Holds the outputs of ``run`` over the test images against the reference's.

    Args:
        run: the engine, or its stand-in, for any number of images.
        prepared: the original and its images.
        trial: how to try it.
        stages: where progress is shown.
        engine_images: the same files as the engine prepares them, where that is not how the reference does.
        what: what ``run`` is, for the progress.

    Raises:
        InputError: there is no image to judge with, or more than 5 % of them are unreadable.
    """
    reference = prepared.reference
    wanted = prepared.test_images(trial.data)
    matched: MatchedOutputs | None = None
    findings: list[Finding] = []
    judge = prepared.task.task.judge(prepared.network, trust(prepared, trial.limits))
    with stages.stage(f"Comparing {what} with {reference.name} on {wanted} images"):
        alone = rowless(prepared.graph.graph)
        size = 1 if one_at_a_time(prepared.graph.graph) else max(trial.batch.max, prepared.test.together())
        uneven = Counter[str]()
        read: Iterable[tuple[Batch, Batch]] = ((images, images) for images in prepared.test.batches(size, wanted))
        if engine_images is not None:
            # An image that cannot be read cannot be read for either, so the batches stay in step.
            read = zip(prepared.test.batches(size, wanted), engine_images.batches(size, wanted), strict=True)
        for images, own in stages.track(read, -(-wanted // size)):
            if matched is None and own is not images:
                findings += input_findings(*(next(iter(batch.inputs.values())) for batch in (images, own)))
            truth, answers = (with_samples(found, alone) for found in (reference.answer(images), run(own.inputs)))
            if matched is None:
                matched = match_outputs(truth, answers)
            pairs = matched.names.items()
            uneven.update(name for name, own_name in pairs if truth[name].shape != answers[own_name].shape)
            judge.add(
                {name: truth[name] for name in matched.names},
                {name: answers[own_name] for name, own_name in pairs},
                images,
            )
    if matched is None:
        raise InputError("the data gave no image to judge the engine with: give it some")
    judged = judge.result()
    if sizes := at_other_sizes(run, prepared, stages, engine_images or prepared.test):
        judged = replace(judged, parity=judged.parity.model_copy(update={"sizes": sizes}))
    metrics = judged.metrics
    if (
        prepared.labelled
        and metrics
        and trial.limits.max_regression_drop is not None
        and (marked := judge.marked()) is not None
    ):
        since = regressions(*marked, trial.rivals.bundles, prepared)
        metrics = [metrics[0].model_copy(update={"regressions": since}), *metrics[1:]]
    findings += [*matched.findings, *uneven_rows(uneven, wanted)]
    return replace(judged, metrics=metrics, findings=[*findings, *judged.findings])


def trust(prepared: Prepared, limits: GateLimits) -> Trust:
    """What may be concluded from a network's images, about the limit on the drop of its task's metric."""
    specs = prepared.task.task.metrics
    return Trust(prepared.labelled, limits.drop_of(specs[0].share) if specs else None)


def on_device(row: LatencyRow, session: Session, samples: Feed, runs: int) -> LatencyRow:
    """Adds to a row of the engine what its kernels take without the copies around them, where there are any."""
    if row.name != ENGINE:
        return row
    names, feed = engine_names(samples, session.inputs), part(samples, 0, row.batch)
    found = session.device_times_ms({names[name]: array for name, array in feed.items()}, runs)
    return row.model_copy(update={"device_p50_ms": float(np.median(found))}) if found else row


def _exactly(images: Samples, count: int) -> Feed:
    """The first samples, again and again where there are fewer than ``count``."""
    return repeated(next(images.batches(count)).inputs, count)
