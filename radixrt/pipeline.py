"""``radixrt engine``: a network and a precision become one bundle per target, each held against the original."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
from pydantic import TypeAdapter

from radixrt import __version__
from radixrt.calibration.images import ImageList
from radixrt.calibration.table import write_table
from radixrt.deploy import DeployGraph, DeployOptions, deploy_graph
from radixrt.engines.base import BuiltEngine, Capability, Target
from radixrt.engines.bundle import CALIBRATION_NAME, REPORT_NAME, Bundle, BundleWriter
from radixrt.engines.compatibility import built_for
from radixrt.engines.hashing import sha256_of
from radixrt.engines.manifest import Manifest, ModelIdentity, TensorInfo, now
from radixrt.engines.registry import auto_targets, get
from radixrt.engines.signing import check_private_key
from radixrt.errors import GateError, UnavailableError
from radixrt.export.simplify import write_onnx
from radixrt.export.spec import Precision
from radixrt.judge import Trial, Verdict, judge, with_costs
from radixrt.prepare import Prepared, prepare
from radixrt.progress import Stages
from radixrt.request import EngineRequest
from radixrt.reuse import Reuse, graph_sha256, library_versions
from radixrt.twin import judge_twin
from radixrt.validate import gates
from radixrt.validate.drift import drift
from radixrt.validate.findings import layer_findings
from radixrt.validate.report_html import render_html
from radixrt.validate.report_markdown import render_markdown
from radixrt.validate.schema import DriftRow, ModelInfo, Report, Size
from radixrt.validate.thumbnails import thumbnails

DEPLOY_NAME = "deploy.onnx"
DRIFT_IMAGES = 8
_DRIFT = TypeAdapter(list[DriftRow])


@dataclass(frozen=True)
class Result:
    """One target's bundle and report."""

    bundle: Bundle
    report: Report


@dataclass(frozen=True)
class _Made:
    """Everything that a report and a manifest speak about."""

    prepared: Prepared
    capability: Capability
    deploy: DeployGraph
    built: BuiltEngine
    drift: list[DriftRow]
    verdict: Verdict
    size: Size
    reused: tuple[str, ...]


@dataclass
class Engine:
    """One run of the pipeline.

    ``results`` holds what is finished, also where a later target or gate fails; ``comparison`` is the page that puts
    several targets side by side.
    """

    request: EngineRequest
    stages: Stages
    results: list[Result] = field(default_factory=list)
    comparison: Path | None = None

    def run(self) -> list[Result]:
        """Builds every target that was asked for.

        Raises:
            UnavailableError: a target that was named cannot build here; nothing was started.
            InputError: something the user gave cannot be used; bundles that stood there stand still.
            GateError: a gate failed; the bundles are kept, and their reports say so.
        """
        request = self.request
        targets = choose_targets(request.targets)
        paths = {t.name: request.bundle_path(t.name, [t.name for t in targets]) for t in targets}
        for path in paths.values():
            BundleWriter.check_writable(path)
        if request.sign_key is not None:
            check_private_key(request.sign_key)
        self.stages.total = 2 + sum(_stage_count(request, t.capability()) for t in targets)
        with Reuse(fresh=request.fresh) as reuse:
            prepared = prepare(request.model, request.data, request.batch, self.stages, reuse)
            for target in targets:
                self.results.append(self._compile(prepared, target, paths[target.name], reuse))
        if len(self.results) > 1:
            self._compare()
        failed = [f"{r.bundle.path}: {_failures(r.report)}" for r in self.results if not r.report.passed]
        if failed:
            raise GateError("a gate failed, the bundle is kept: " + "; ".join(failed))
        return self.results

    def _compare(self) -> None:
        """Puts the reports of several targets on one page beside their bundles."""
        from radixrt.validate.compare import render_comparison

        folder = self.results[0].bundle.path.parent
        page = folder / f"{self.request.model.slug}-{self.request.precision.value}.html"
        unfinished = page.with_name(f".{page.name}")
        unfinished.write_text(render_comparison([result.report for result in self.results]), encoding="utf-8")
        self.comparison = unfinished.replace(page)

    def _compile(self, prepared: Prepared, target: Target, path: Path, reuse: Reuse) -> Result:
        request, capability = self.request, target.capability()
        options = DeployOptions(
            request.precision,
            target.name,
            request.grouped_conv,
            request.batch.opt,
            request.calibration,
            request.recover(prepared.labelled),
        )
        before = len(reuse.taken)
        with BundleWriter(path, wait_s=0) as writer:
            deploy = deploy_graph(prepared.graph, prepared.data.calibration, options, self.stages, reuse)
            write_onnx(deploy.model, writer.folder / DEPLOY_NAME)
            if deploy.table is not None:
                write_table(deploy.table, writer.folder / CALIBRATION_NAME)
            with self.stages.stage(f"Building the {target.name} engine"):
                built = self._build(target, writer.folder, reuse)
            drift = self._drift(prepared, deploy, reuse)
            verdict = self._judge(prepared, target, built, writer.folder / DEPLOY_NAME, reuse)
            size = Size(
                deploy_onnx_bytes=(writer.folder / DEPLOY_NAME).stat().st_size,
                engine_bytes=sum(file.stat().st_size for file in built.files),
            )
            reused = tuple(reuse.taken[:1] if before else ()) + tuple(reuse.taken[before:])
            made = _Made(prepared, capability, deploy, built, drift, verdict, size, reused)
            report = self._report(made)
            write_reports(report, writer.folder, flipped(report, prepared.test))
            bundle = writer.finish(self._manifest(made, target), sign_key=request.sign_key)
        return Result(bundle, report)

    def _build(self, target: Target, folder: Path, reuse: Reuse) -> BuiltEngine:
        """Builds the engine, or copies the one that an earlier run built from the same deploy graph on this device."""
        capability = target.capability()
        key = reuse.key(
            "build",
            inputs={"deploy": sha256_of(folder / DEPLOY_NAME)},
            options={
                "target": target.name,
                "version": capability.version,
                "device": capability.device,
                "options": self.request.build,
            },
        )
        found = reuse.find(key, f"{target.name} engine")
        if found is None:

            def write(kept: Path) -> None:
                built = target.build(folder / DEPLOY_NAME, kept, self.request.build)
                (kept / "built.json").write_text(built.to_json())

            found = reuse.keep(key, f"{target.name} engine", write)
        built = BuiltEngine.from_json((found / "built.json").read_text(), folder)
        for file in built.files:
            shutil.copyfile(found / file.name, file)
        return built

    def _drift(self, prepared: Prepared, deploy: DeployGraph, reuse: Reuse) -> list[DriftRow]:
        """Where the error of a narrower precision comes from: the deploy graph beside itself before it was typed."""
        if self.request.precision is Precision.FP32:
            return []
        key = reuse.key(
            "drift",
            inputs={
                "float32": graph_sha256(deploy.float32),
                "deploy": graph_sha256(deploy.model),
                "images": prepared.test.sha256,
            },
        )
        found = reuse.find(key, "drift")
        with self.stages.stage("Locating the error, layer by layer"):
            if found is None:

                def write(folder: Path) -> None:
                    size = self.request.batch.max
                    batches = (batch.images for batch in prepared.test.batches(size, max(size, DRIFT_IMAGES)))
                    whole = (images for images in batches if len(images) == size)
                    rows = drift(deploy.float32, deploy.model, whole)
                    (folder / "drift.json").write_text(_DRIFT.dump_json(rows).decode())

                found = reuse.keep(key, "drift", write)
        return _DRIFT.validate_json((found / "drift.json").read_bytes())

    def _judge(self, prepared: Prepared, target: Target, built: BuiltEngine, deploy: Path, reuse: Reuse) -> Verdict:
        """Holds the engine against the original, or its CPU twin where the engine cannot run here."""
        request, runs = self.request, target.capability().runs
        trial = Trial(
            request.batch, request.data, request.gates, request.latency_rounds, request.rivals, request.build.threads
        )
        key = reuse.key(
            "judge",
            inputs={
                "graph": prepared.graph_sha256,
                "engine": " ".join(sha256_of(file) for file in (built.files if runs else (deploy,))),
                "images": prepared.test.sha256,
            },
            options={
                "target": target.name,
                "device": target.capability().device,
                "drop": trial.limits.drop_limit,
                "images": prepared.test_images(trial.data),
                "preprocess": prepared.preprocess,
                "rounds": trial.rounds,
                "rivals": [trial.rivals.identity(), trial.rivals.sweep],
                "threads": request.build.threads,
            },
        )
        found = reuse.find(key, f"{target.name} measurements")
        if found is None:

            def write(folder: Path) -> None:
                if not runs:
                    verdict = judge_twin(deploy, request.build, prepared, trial, now(), self.stages)
                else:
                    with target.open(built.files[0], threads=request.build.threads) as session:
                        verdict = judge(session, prepared, trial, now(), self.stages)
                    with self.stages.stage("Profiling layers and the first inference"):
                        verdict = with_costs(verdict, target.name, built.files[0], deploy, request.build)
                (folder / "verdict.json").write_text(verdict.model_dump_json())

            found = reuse.keep(key, f"{target.name} measurements", write)
        return Verdict.model_validate_json((found / "verdict.json").read_bytes())

    def _report(self, made: _Made) -> Report:
        model, verdict = made.prepared.model, made.verdict
        runs = made.capability.runs
        judged = gates.judge_gates(
            self.request.gates,
            parity=verdict.parity,
            accuracy=verdict.accuracy,
            latency=verdict.latency,
            size=made.size,
            executed=runs,
            measured_on=verdict.measured_on,
        )
        notes = [model.note] if model.note else []
        if not runs:
            notes.append(f"The engine was built and not executed: {made.capability.reason}.")
        if made.prepared.capture_error is not None:
            notes.append(
                f"The captured graph differs from PyTorch by at most {made.prepared.capture_error:.2g} on real images."
            )
        if made.reused:
            when = f"; measurements of {verdict.measured}" if "measurements" in made.reused[-1] else ""
            notes.append(f"Taken from an earlier run: {', '.join(made.reused)}{when}.")
        return Report(
            model=ModelInfo(name=model.name, source=model.source, weights=model.weights, parameters=model.parameters),
            precision=self.request.precision.value,
            target=made.capability.target,
            executed=runs,
            reference=made.prepared.reference.short,
            created=now(),
            command=self.request.command,
            environment=environment(made.capability),
            rewrite=made.deploy.rewrite,
            calibration=made.deploy.calibration,
            quantization=made.deploy.quantization,
            parity=verdict.parity,
            accuracy=verdict.accuracy,
            latency=verdict.latency,
            measured_on=verdict.measured_on,
            layer_times=verdict.layer_times,
            drift=made.drift,
            findings=[*verdict.findings, *layer_findings(made.drift)],
            size=made.size,
            gates=judged,
            passed=gates.passed(judged),
            notes=[*notes, *verdict.notes, *made.built.notes],
        )

    def _manifest(self, made: _Made, target: Target) -> Manifest:
        model, graph = made.prepared.model, made.deploy.model.graph
        return Manifest(
            created=now(),
            radixrt=__version__,
            libraries=library_versions(),
            model=ModelIdentity(
                name=model.name,
                source=model.source,
                weights=model.weights,
                parameters=model.parameters,
                logits=self.request.model.logits,
            ),
            precision=self.request.precision.value,
            target=target.name,
            batch=(self.request.batch.min, self.request.batch.max),
            built_for=built_for(target, self.request.build, made.built),
            executed=made.capability.runs,
            inputs=tuple(_tensor_info(value) for value in graph.inputs),
            outputs=tuple(_tensor_info(value) for value in graph.outputs),
            preprocessing=made.prepared.preprocess,
            labels=made.prepared.labels,
            engine=made.built.files[0].name,
        )


def choose_targets(names: Iterable[str]) -> tuple[Target, ...]:
    """Resolves ``auto`` and names, and refuses what cannot build here before anything long starts.

    Raises:
        InputError: an unknown target.
        UnavailableError: a named target cannot build here.
    """
    chosen: dict[str, Target] = {}
    for name in names:
        for target in auto_targets() if name == "auto" else (get(name),):
            chosen[target.name] = target
    for target in chosen.values():
        capability = target.capability()
        if not capability.builds:
            raise UnavailableError(target.name, capability.reason, capability.hint)
    return tuple(chosen.values())


def flipped(report: Report, images: ImageList) -> dict[str, bytes]:
    """Small pictures of the images whose answer changed, by name."""
    flips = report.accuracy.flips if report.accuracy else []
    return thumbnails(dict(zip(images.names, images.paths, strict=True)), (flip.image for flip in flips))


def write_reports(report: Report, folder: Path, pictures: Mapping[str, bytes] | None = None) -> None:
    """Writes the report as JSON, Markdown and one self-contained page with pictures of the images it names."""
    report.write(folder / REPORT_NAME)
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(render_html(report, pictures), encoding="utf-8")


def environment(capability: Capability) -> dict[str, str]:
    """Where a build took place, in words."""
    words = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "device": capability.device,
        "python": platform.python_version(),
        capability.target: capability.version,
        **library_versions(),
    }
    return {name: value for name, value in words.items() if value}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor()


def _tensor_info(value: ir.Value) -> TensorInfo:
    assert value.name is not None and value.dtype is not None and value.shape is not None
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    return TensorInfo(name=value.name, dtype=value.dtype.numpy().name, shape=shape)


def _stage_count(request: EngineRequest, capability: Capability) -> int:
    """Rewriting and building; calibrating, placing and locating the error; comparing, timing and profiling."""
    narrowing = {Precision.FP32: 0, Precision.FP16: 1, Precision.INT8: 3}[request.precision]
    if request.precision is Precision.INT8:
        narrowing += request.recover(labelled=False).stages
    return 2 + narrowing + (3 if capability.runs else 1)


def _failures(report: Report) -> str:
    return ", ".join(f"{gate.name} (limit {gate.limit:g}): {gate.reason}" for gate in report.gates if not gate.passed)
