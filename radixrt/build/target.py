"""One target of a request: its engine is built into a folder, held against the original, and becomes a bundle.

:func:`build`, :func:`judge_engine` and :func:`finish` follow each other; ``TARGET=fastest`` puts a race of all targets
in the place of the second.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from pydantic import TypeAdapter

from radixrt import __version__
from radixrt.build.deploy import DeployGraph, DeployOptions, deploy_graph
from radixrt.calibration.ranges.table import write_table
from radixrt.engines.base import GRAPH_NAME, BuiltEngine, Capability, Target
from radixrt.engines.bundle.compatibility import built_for
from radixrt.engines.bundle.folder import CALIBRATION_NAME, Bundle, BundleWriter
from radixrt.engines.bundle.manifest import Manifest, ModelIdentity, TensorInfo, now
from radixrt.engines.cache.device import device_cache
from radixrt.engines.machine import machine
from radixrt.engines.runners import OutputsRunner, session_outputs
from radixrt.errors import GateError
from radixrt.export.graph.hash import graph_sha256
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.spec import Precision
from radixrt.files import sha256_of
from radixrt.judge.judge import Trial, Verdict, judge, with_costs
from radixrt.judge.locate import Located, measure, whole_batches
from radixrt.judge.report import environment, flipped, write_reports
from radixrt.judge.stand_in import judge_twin
from radixrt.options import EngineRequest
from radixrt.prepare import Prepared
from radixrt.progress import Stages
from radixrt.reuse import Reuse, library_versions
from radixrt.validate import gates
from radixrt.validate.measure.findings import layer_findings
from radixrt.validate.measure.latency import FLOAT32
from radixrt.validate.schema import Candidate, Gate, ModelInfo, Report, Size

_LOCATED = TypeAdapter(Located)


@dataclass(frozen=True)
class Result:
    """One target's bundle and report."""

    bundle: Bundle
    report: Report


@dataclass(frozen=True)
class Job:
    """What all targets of a request share. ``shared`` names what the preparation took from an earlier run."""

    request: EngineRequest
    prepared: Prepared
    stages: Stages
    reuse: Reuse
    shared: tuple[str, ...]

    @property
    def trial(self) -> Trial:
        """How engines are tried."""
        request = self.request
        return Trial(
            request.batch, request.data, request.gates, request.latency_rounds, request.rivals, request.build.threads
        )


@dataclass(frozen=True)
class Built:
    """A target's graph and engine in a folder. ``reused`` names what was taken from an earlier run."""

    target: Target
    capability: Capability
    folder: Path
    deploy: DeployGraph
    engine: BuiltEngine
    reused: tuple[str, ...]

    @property
    def deploy_file(self) -> Path:
        return self.folder / GRAPH_NAME

    @property
    def size(self) -> Size:
        return Size(
            deploy_onnx_bytes=self.deploy_file.stat().st_size,
            engine_bytes=sum(file.stat().st_size for file in self.engine.files),
        )


def build(job: Job, target: Target, folder: Path) -> Built:
    """Makes the deploy graph and the engine of a target.

    Raises:
        InputError: the images cannot calibrate the graph, or the target cannot take it.
        UnavailableError: the target cannot build here.
    """
    request, prepared, reuse = job.request, job.prepared, job.reuse
    options = DeployOptions(
        request.precision,
        target.name,
        request.grouped_conv,
        request.batch.opt,
        request.calibration,
        request.recover(prepared.labelled),
        request.build.threads,
    )
    before = len(reuse.taken)
    deploy = deploy_graph(
        prepared.graph, prepared.data.calibration, options, job.stages, reuse, sha256=prepared.graph_sha256
    )
    write_onnx(deploy.model, folder / GRAPH_NAME)
    if deploy.table is not None:
        write_table(deploy.table, folder / CALIBRATION_NAME)
    with job.stages.stage(f"Building the {target.name} engine"):
        engine = _engine(job, target, folder)
    return Built(target, target.capability(), folder, deploy, engine, tuple(reuse.taken[before:]))


def _engine(job: Job, target: Target, folder: Path) -> BuiltEngine:
    """Builds the engine, or copies the one that an earlier run built from the same deploy graph on this device."""
    capability = target.capability()
    key = job.reuse.key(
        "build",
        inputs={"deploy": sha256_of(folder / GRAPH_NAME)},
        options={
            "target": target.name,
            "version": capability.version,
            "device": capability.device,
            "options": job.request.build,
        },
    )
    found = job.reuse.find(key, f"{target.name} engine")
    if found is None:

        def write(kept: Path) -> None:
            # Timings of kernels hold for every network on this device: they are kept beside the stages, not in them.
            options = replace(job.request.build, cache_dir=None if job.request.fresh else device_cache())
            built = target.build(folder / GRAPH_NAME, kept, options, progress=job.stages.phase)
            (kept / "built.json").write_text(built.to_json())

        found = job.reuse.keep(key, f"{target.name} engine", write)
    built = BuiltEngine.from_json((found / "built.json").read_text(), folder)
    for file in built.files:
        shutil.copyfile(found / file.name, file)
    return built


def judge_engine(job: Job, built: Built) -> tuple[Verdict, tuple[str, ...]]:
    """Holds the engine against the original, or its CPU twin where the engine cannot run here.

    Returns:
        What was measured, and what of it was taken from an earlier run.
    """
    target, runs, stages = built.target, built.capability.runs, job.stages
    files = built.engine.files if runs else (built.deploy_file,)
    key = job.reuse.key(
        "judge",
        inputs={"engine": " ".join(sha256_of(file) for file in files), **judged_inputs(job)},
        options={"engine": runs_on(built.capability), **judged_options(job)},
    )
    before = len(job.reuse.taken)
    found = job.reuse.find(key, f"{target.name} measurements")
    if found is None:

        def write(folder: Path) -> None:
            options, file = job.request.build, built.engine.files[0]
            if not runs:
                verdict = judge_twin(built.deploy_file, options, job.prepared, job.trial, now(), stages)
            else:
                with target.open(file, threads=options.threads) as session, float_engine(job, built) as beside:
                    verdict = judge(session, job.prepared, job.trial, now(), stages, beside=beside)
                with stages.stage("Profiling layers and the first inference"):
                    verdict = with_costs(verdict, target, file, built.deploy_file, options)
            (folder / "verdict.json").write_text(verdict.model_dump_json())

        found = job.reuse.keep(key, f"{target.name} measurements", write)
    return Verdict.model_validate_json((found / "verdict.json").read_bytes()), tuple(job.reuse.taken[before:])


@contextmanager
def float_engine(job: Job, built: Built) -> Iterator[dict[str, OutputsRunner]]:
    """What INT8 has to beat: the same graph in FP32 on the same runtime. Only where building it takes no time."""
    if job.request.precision is not Precision.INT8 or not built.target.traits.cpu:
        yield {}
        return
    options = replace(job.request.build, precision=Precision.FP32)
    with (
        tempfile.TemporaryDirectory(prefix="radixrt-fp32-") as scratch,
        built.target.open_graph(built.deploy.float32, Path(scratch), options) as session,
    ):
        yield {FLOAT32: session_outputs(session, job.request.batch)}


def runs_on(capability: Capability) -> tuple[str, ...]:
    """What runs an engine and where: measurements hold for nothing else."""
    return capability.target, capability.version, capability.device, machine()


def judged_inputs(job: Job) -> dict[str, str]:
    """The hashes that measurements depend on, beside the engine's."""
    return {"graph": job.prepared.graph_sha256, "images": job.prepared.test.prepared_sha256}


def judged_options(job: Job) -> dict[str, object]:
    """What else decides measurements, beside the engine and where it runs."""
    trial, prepared = job.trial, job.prepared
    return {
        "precision": job.request.precision.value,
        "original": prepared.model.source,
        "batch": str(trial.batch),
        "drop": trial.limits.drop_limit,
        "images": prepared.test_images(trial.data),
        # The images' hash knows neither their names and order nor what they show.
        "test": [prepared.test.names, prepared.test.labels],
        "classes": [prepared.labels, prepared.labelled],
        "rounds": trial.rounds,
        "rivals": [trial.rivals.identity(), trial.rivals.sweep],
        "threads": trial.threads,
    }


def judged_gates(job: Job, built: Built, verdict: Verdict) -> list[Gate]:
    """The request's limits, held against what was measured."""
    return gates.judge_gates(
        job.request.gates,
        parity=verdict.parity,
        accuracy=verdict.accuracy,
        latency=verdict.latency,
        size=built.size,
        executed=built.capability.runs,
        measured_on=verdict.measured_on,
    )


def demand(results: Sequence[Result]) -> None:
    """Refuses results of which one missed a limit.

    Raises:
        GateError: which bundle missed which limit.
    """
    failed = [f"{r.bundle.path}: {gates.missed(r.report.gates)}" for r in results if not r.report.passed]
    if failed:
        raise GateError("a gate failed, the bundle is kept: " + "; ".join(failed))


def finish(
    job: Job,
    built: Built,
    verdict: Verdict,
    writer: BundleWriter,
    reused: tuple[str, ...] = (),
    candidates: Sequence[Candidate] = (),
) -> Result:
    """Locates the error, writes the reports and the manifest, and puts the bundle in its place.

    Args:
        job: what all targets share.
        built: the engine, whose files lie in the writer's folder.
        verdict: what was measured.
        writer: the bundle that is being written.
        reused: which measurements were taken from an earlier run.
        candidates: the targets that this one was chosen from.
    """
    before = len(job.reuse.taken)
    located = _drift(job, built)
    taken = (*job.shared, *built.reused, *reused, *job.reuse.taken[before:])
    report = make_report(job, built, verdict, taken, located, candidates)
    write_reports(report, writer.folder, flipped(report, job.prepared.test))
    return Result(writer.finish(_manifest(job, built), sign_key=job.request.sign_key), report)


def _drift(job: Job, built: Built) -> Located:
    """Where the error of a narrower precision comes from: the deploy graph beside itself before it was typed."""
    if job.request.precision is Precision.FP32:
        return Located()
    deploy, test = built.deploy, job.prepared.test
    plan = built.target.analysis(built.deploy_file, job.request.build)
    inputs = {
        "float32": graph_sha256(deploy.float32),
        "deploy": graph_sha256(deploy.model),
        "images": test.prepared_sha256,
    }
    device = {"capability": plan.capability, "options": plan.options} if plan is not None else None
    size = job.request.batch.max
    key = job.reuse.key("drift", inputs=inputs, options={"batch": size, "device": device})
    found = job.reuse.find(key, "drift")
    with job.stages.stage("Locating the error, layer by layer"):
        if found is None:

            def write(folder: Path) -> None:
                located = measure(deploy.float32, deploy.model, lambda: whole_batches(test, size), plan)
                (folder / "drift.json").write_text(_LOCATED.dump_json(located).decode())

            found = job.reuse.keep(key, "drift", write)
    return _LOCATED.validate_json((found / "drift.json").read_bytes())


def make_report(
    job: Job,
    built: Built,
    verdict: Verdict,
    reused: tuple[str, ...] = (),
    located: Located | None = None,
    candidates: Sequence[Candidate] = (),
) -> Report:
    """Everything that is known about an engine."""
    model, capability, located = job.prepared.model, built.capability, located or Located()
    judged = judged_gates(job, built, verdict)
    notes = [*([model.note] if model.note else []), *model.remarks, *job.prepared.on_outputs]
    if not capability.runs:
        notes.append(f"The engine was built and not executed: {capability.reason}.")
    error = job.prepared.capture_error
    if error is not None:
        notes.append(f"The captured graph differs from PyTorch by at most {error:.2g} on real images.")
    if reused:
        measured = any("measurements" in stage for stage in reused)
        when = f"; measurements of {verdict.measured}" if measured else ""
        notes.append(f"Taken from an earlier run: {', '.join(reused)}{when}.")
    return Report(
        model=ModelInfo(name=model.name, source=model.source, weights=model.weights, parameters=model.parameters),
        precision=job.request.precision.value,
        target=capability.target,
        executed=capability.runs,
        reference=job.prepared.reference.short,
        created=now(),
        command=job.request.command,
        environment=environment(capability),
        rewrite=built.deploy.rewrite,
        calibration=built.deploy.calibration,
        quantization=built.deploy.quantization,
        float32_nodes=list(built.deploy.float32_nodes),
        parity=verdict.parity,
        accuracy=verdict.accuracy,
        latency=verdict.latency,
        measured_on=verdict.measured_on,
        layer_times=verdict.layer_times,
        drift=list(located.rows),
        findings=[*verdict.findings, *layer_findings(located.rows)],
        size=built.size,
        gates=judged,
        passed=gates.passed(judged),
        notes=[*notes, *verdict.notes, *located.notes, *built.engine.notes],
        candidates=list(candidates),
    )


def _manifest(job: Job, built: Built) -> Manifest:
    model, graph, prepared = job.prepared.model, built.deploy.model.graph, job.prepared
    return Manifest(
        created=now(),
        radixrt=__version__,
        libraries=library_versions(),
        model=ModelIdentity(
            name=model.name,
            source=model.source,
            weights=model.weights,
            parameters=model.parameters,
            logits=job.request.model.logits,
        ),
        precision=job.request.precision.value,
        target=built.target.name,
        batch=(job.request.batch.min, job.request.batch.max),
        built_for=built_for(built.target, job.request.build, built.engine),
        executed=built.capability.runs,
        inputs=tuple(_tensor_info(value) for value in graph.inputs),
        outputs=tuple(_tensor_info(value) for value in graph.outputs),
        preprocessing=prepared.preprocess,
        labels=prepared.labels,
        engine=built.engine.files[0].name,
    )


def _tensor_info(value: ir.Value) -> TensorInfo:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorInfo(name=value.name, dtype=value.dtype.numpy().name, shape=shape)


def moved(built: Built, folder: Path) -> Built:
    """The same, with its files copied into another folder."""
    shutil.copytree(built.folder, folder, dirs_exist_ok=True)
    files = tuple(folder / file.name for file in built.engine.files)
    return replace(built, folder=folder, engine=replace(built.engine, files=files))
