"""One target of a request: its engine is built into a folder, and becomes a bundle with its report.

Between :func:`build` and :func:`finish` the engine is judged: alone, or with ``TARGET=fastest`` in a race with others.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from radixrt import __version__
from radixrt.build.deploy import DeployGraph, DeployOptions, deploy_graph, own_deploy_graph
from radixrt.calibration.ranges.table import write_table
from radixrt.engines.base import GRAPH_NAME, BuildOptions, BuiltEngine, Target
from radixrt.engines.bundle.compatibility import Host, built_for
from radixrt.engines.bundle.folder import CALIBRATION_NAME, Bundle, BundleWriter
from radixrt.engines.bundle.manifest import Manifest, ModelIdentity, TensorInfo, now
from radixrt.engines.cache.device import device_cache
from radixrt.export.graph.save import write_onnx
from radixrt.export.spec import Precision
from radixrt.files import sha256_of
from radixrt.judge.engine import Bench, EngineFiles
from radixrt.judge.locate import Located, locate_built
from radixrt.judge.report import Subject, build_report, flipped, write_reports
from radixrt.judge.verdict import Verdict
from radixrt.recipe import RECIPE_NAME, to_toml
from radixrt.request import EngineRequest
from radixrt.reuse import Codec, Kept, Step, library_versions
from radixrt.validate.gates import engine_row
from radixrt.validate.report.summary import headline
from radixrt.validate.schema import Candidate, Report, Size

_RECORD = "built.json"


@dataclass(frozen=True)
class Result:
    """One target's bundle and report."""

    bundle: Bundle
    report: Report

    def __repr__(self) -> str:
        report = self.report
        p50 = f", median {engine_row(report.latency).p50_ms:.2f} ms" if report.latency else ""
        said = f"{report.model.name} {report.precision} on {report.target}: {headline(report).title}{p50}"
        return f"Result({said}, {self.bundle.path})"


@dataclass(frozen=True)
class Job:
    """What all targets of a request share: what was asked for, and what engines are held against.

    ``together`` are the names of all targets.
    """

    request: EngineRequest
    bench: Bench
    together: tuple[str, ...] = ()

    @property
    def build_options(self) -> BuildOptions:
        """How engines are built, with the sides of the image that the network was prepared for."""
        return replace(self.request.build, sides=self.bench.prepared.sides)


@dataclass(frozen=True)
class Built:
    """A target's graph and engine in a folder. ``reused`` names what was taken from an earlier run.

    ``engine`` is None where the device builds it. ``host`` is where it was built, and ``ran`` whether it was executed,
    where a device did so.
    """

    target: Target
    folder: Path
    deploy: DeployGraph
    engine: BuiltEngine | None
    files: EngineFiles
    reused: tuple[str, ...]
    host: Host | None = None
    ran: bool | None = None

    def copy_to(self, folder: Path) -> None:
        """Copies the files that belong into a bundle, where they lie elsewhere."""
        if self.folder != folder:
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)

    @property
    def size(self) -> Size:
        return Size(
            deploy_onnx_bytes=self.files.deploy.stat().st_size,
            engine_bytes=sum(file.stat().st_size for file in self.engine.files) if self.engine else None,
        )


def build(job: Job, target: Target, folder: Path) -> Built:
    """Makes the deploy graph and the engine of a target.

    Raises:
        InputError: the images cannot calibrate the graph, or the target cannot take it.
        UnavailableError: the target cannot build here.
    """
    request, prepared, stages, reuse = job.request, job.bench.prepared, job.bench.stages, job.bench.reuse
    options = DeployOptions(
        precision=request.precision,
        target=target.name,
        grouped_conv=request.grouped_conv,
        batch=request.batch.opt,
        calibration=request.calibration,
        recovery=request.recover(prepared.labelled, (prepared.task.task, prepared.network)),
        threads=request.build.threads,
        sides=prepared.sides,
        beside=tuple(name for name in job.together if name != target.name),
    )
    images = prepared.data.calibration
    if prepared.own_pairs is not None:
        deploy = own_deploy_graph(prepared.graph, prepared.own_pairs, images, options, stages, reuse)
    else:
        deploy = deploy_graph(prepared.graph, images, options, stages, reuse, sha256=prepared.graph_sha256)
    graph = folder / GRAPH_NAME
    write_onnx(deploy.model, graph)
    if deploy.table is not None:
        write_table(deploy.table, folder / CALIBRATION_NAME)
    engine: Kept[BuiltEngine] | None = None
    if not target.capability().on_device:
        with stages.stage(f"Building the {target.name} engine"):
            engine = _engine(job, target, folder)
    return Built(
        target=target,
        folder=folder,
        deploy=deploy,
        engine=engine.value if engine else None,
        files=EngineFiles(
            target, engine.value.files if engine else (), graph, deploy.rival or deploy.float32, job.build_options
        ),
        reused=(*deploy.reused, *(engine.reused if engine else ())),
    )


def _engine(job: Job, target: Target, folder: Path) -> Kept[BuiltEngine]:
    """Builds the engine, or copies the one that an earlier run built from the same deploy graph on this device."""
    request, capability = job.request, target.capability()

    def make() -> BuiltEngine:
        # Timings of kernels hold for every network on this device: they are kept beside the results, not in them.
        options = replace(job.build_options, cache_dir=None if request.fresh else device_cache())
        return target.build(folder / GRAPH_NAME, folder, options, progress=job.bench.stages.phase)

    step = Step(
        f"{target.name} engine",
        _engine_files(folder),
        inputs={"deploy": sha256_of(folder / GRAPH_NAME)},
        options={
            "target": target.name,
            "version": capability.version,
            "device": capability.device,
            "options": job.build_options,
        },
    )
    return job.bench.reuse.step(step, make)


def _engine_files(folder: Path) -> Codec[BuiltEngine]:
    """Keeps the files of an engine that lies in ``folder``, and puts them there again."""

    def write(built: BuiltEngine, kept: Path) -> None:
        for file in built.files:
            shutil.copyfile(file, kept / file.name)
        (kept / _RECORD).write_text(built.to_json())

    def read(kept: Path) -> BuiltEngine:
        built = BuiltEngine.from_json((kept / _RECORD).read_text(), folder)
        for file in built.files:
            shutil.copyfile(kept / file.name, file)
        return built

    return Codec(write, read)


def finish(
    job: Job, built: Built, verdict: Kept[Verdict], writer: BundleWriter, candidates: Sequence[Candidate] = ()
) -> Result:
    """Locates the error, writes the reports and the manifest, and puts the bundle in its place.

    Args:
        job: what all targets share.
        built: the engine.
        verdict: what was measured.
        writer: the bundle that is being written; the engine's files are copied into it where they lie elsewhere.
        candidates: the targets that this one was chosen from.
    """
    built.copy_to(writer.folder)
    report = report_on(job, built, verdict, _locate(job, built), candidates)
    write_reports(report, writer.folder, flipped(report, job.bench.prepared.test), verdict.value.examples)
    made = {"precision": job.request.precision.value, "target": built.target.name, **asdict(job.bench.prepared.pins)}
    (writer.folder / RECIPE_NAME).write_text(to_toml(job.request.options, **made), encoding="utf-8")
    return Result(writer.finish(manifest_of(job, built), sign_key=job.request.sign_key), report)


def _locate(job: Job, built: Built) -> Kept[Located]:
    """Where the error of a narrower precision comes from; a graph in FP32 shows none."""
    if job.request.precision in (Precision.FP32, Precision.BF16):
        return Kept(Located())
    plan = built.target.analysis(built.files.deploy, job.build_options)
    with job.bench.stages.stage("Locating the error, layer by layer"):
        return locate_built(
            built.deploy.float32,
            built.deploy.model,
            job.bench.prepared.test,
            job.request.batch.max,
            plan,
            job.bench.reuse,
        )


def report_on(
    job: Job,
    built: Built,
    verdict: Kept[Verdict],
    located: Kept[Located] | None = None,
    candidates: Sequence[Candidate] = (),
) -> Report:
    """The report on an engine that was built here."""
    prepared, deploy = job.bench.prepared, built.deploy
    history: tuple[str, ...] = ()
    if prepared.capture_error is not None:
        error = f"{prepared.capture_error:.2g}"
        history = (f"The captured graph differs from PyTorch by at most {error} on real images.",)
    subject = Subject(
        capability=built.target.capability(),
        precision=job.request.precision.value,
        size=built.size,
        command=job.request.command,
        introduction=(*([prepared.model.note] if prepared.model.note else []), *prepared.model.remarks),
        history=history,
        remarks=(*(built.engine.notes if built.engine else ()), *built.target.remarks(deploy.model)),
        rewrite=deploy.rewrite,
        calibration=deploy.calibration,
        quantization=deploy.quantization,
        float32_nodes=deploy.float32_nodes,
        reused=(*prepared.reused, *built.reused),
    )
    return build_report(subject, prepared, job.request.gates, verdict, located or Kept(Located()), candidates)


def manifest_of(job: Job, built: Built) -> Manifest:
    """What a bundle says of itself, but for its files."""
    request, prepared, graph = job.request, job.bench.prepared, built.deploy.model.graph
    model, engine = prepared.model, built.engine
    return Manifest(
        created=now(),
        radixrt=__version__,
        libraries=library_versions(),
        model=ModelIdentity(
            name=model.name,
            source=model.source,
            weights=model.weights,
            parameters=model.parameters,
            logits=request.model.logits,
        ),
        precision=request.precision.value,
        target=built.target.name,
        batch=(request.batch.min, request.batch.max),
        built_for=built_for(built.target, job.build_options, engine, built.host) if engine else None,
        executed=built.files.runs if built.ran is None else built.ran,
        inference_precision=engine.facts.get("inference_precision") if engine else None,
        inputs=tuple(TensorInfo.of(value) for value in graph.inputs),
        outputs=tuple(TensorInfo.of(value, prepared.kinds.get(value.name or "")) for value in graph.outputs),
        preprocessing=prepared.preprocess,
        sides=prepared.sides,
        assumed=prepared.preparation.assumed if prepared.preparation else (),
        labels=prepared.labels,
        # What a decoder of the user's makes of outputs stays with the user: a bundle runs none of their code.
        task="tensors" if request.model.decode is not None else prepared.task.task.name,
        engine=engine.files[0].name if engine else None,
    )
