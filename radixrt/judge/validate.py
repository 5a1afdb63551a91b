"""``radixrt validate``: an engine that exists, ours or somebody else's, is held against the original network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.data.images import ImageList
from radixrt.calibration.data.source import load_data
from radixrt.engines.base import BuildOptions, Session, Target
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.manifest import now
from radixrt.engines.registry import get, target_of_file
from radixrt.errors import InputError
from radixrt.export.passes.report import RewriteReport
from radixrt.export.spec import BatchSpec, Precision
from radixrt.files import translate_disk_errors
from radixrt.judge.judge import Trial, judge
from radixrt.judge.locate import Located, locate
from radixrt.judge.report import environment, flipped, write_reports
from radixrt.judge.stand_in import judge_twin
from radixrt.options import DataChoice, ModelChoice
from radixrt.prepare import Prepared, prepare
from radixrt.progress import Stages
from radixrt.reuse import Reuse
from radixrt.validate import gates as judgement
from radixrt.validate.gates import GateLimits
from radixrt.validate.measure.findings import layer_findings
from radixrt.validate.rivals import Rivals
from radixrt.validate.schema import ModelInfo, Report, Size


@dataclass(frozen=True)
class _Judged:
    """What is to be judged; ``bundle`` is absent for an engine that somebody else made."""

    file: Path
    target: Target
    bundle: Bundle | None

    @property
    def files(self) -> set[Path]:
        """The engine with what it reads beside itself: OpenVINO's weights, an ONNX file's outside data."""
        if self.bundle is not None:
            return set(self.file.parent.glob(f"{self.file.stem}.*"))
        found = {self.file}
        if self.file.suffix == ".xml":
            found.add(self.file.with_suffix(".bin"))
        if self.file.suffix == ".onnx":
            values = (value.const_value for value in ir.load(self.file).graph.initializers.values())
            found |= {Path(value.path) for value in values if isinstance(value, ir.ExternalTensor)}
        return found


def validate_engine(
    engine: Path,
    *,
    reference: str | None = None,
    checkpoint: Path | None = None,
    data: str = "elpv",
    preprocess: Path | None = None,
    test_images: int | None = None,
    gates: GateLimits | None = None,
    rivals: Rivals | None = None,
    logits: str | None = None,
    output: Path | None = None,
    display: Stages | None = None,
    command: str = "radixrt.validate",
) -> Report:
    """Runs an engine and its original over the same images, times both, and judges the gates.

    A bundle's engine reads its images as the bundle records, the original as it does by itself: where the two differ,
    the report says how. Where a bundle's engine cannot run here, its CPU twin is judged, and the report says so.

    Args:
        engine: a bundle, or a plain ``.onnx``, OpenVINO ``.xml`` or TensorRT ``.plan``.
        reference: the original network, as ``radixrt engine --model`` takes it; a bundle knows its own.
        checkpoint: the original's trained weights.
        data: the images, as ``radixrt engine --data`` takes them.
        preprocess: a JSON file that says how the original reads its images, where timm knows it wrongly.
        test_images: at most so many images judge.
        gates: the limits.
        rivals: what else is timed, and at which batch sizes.
        logits: the original's output that is the logits, where it has several; the first of two dimensions where
            absent, or the one that the bundle was compiled with.
        output: a folder that takes ``report.json``, ``report.md`` and ``report.html``; none are written without it.
        display: where progress is shown.
        command: what the report says it was made by.

    Raises:
        InputError: there is no such engine, no reference for it, or it is not one that turns images into logits.
        UnavailableError: an engine that somebody else made cannot run here.
    """
    limits = gates or GateLimits()
    stages = display or Stages()
    judged = _find(engine)
    bundle = judged.bundle
    if reference is None and bundle is None:
        raise InputError(f"{engine} does not say which network it was made from: name it with --reference")
    if output is not None:
        with translate_disk_errors(output):
            output.mkdir(parents=True, exist_ok=True)
    name = original_of(bundle, checkpoint, reference) if bundle is not None else str(reference)
    choice = DataChoice(source=data, preprocess_file=preprocess, test_images=test_images)
    if logits is None and bundle is not None:
        logits = bundle.manifest.model.logits
    capability = judged.target.capability()
    with ExitStack() as stack:
        session = None
        if capability.runs or bundle is None:
            session = stack.enter_context(judged.target.open(judged.file))
            _check_tensors(engine, session)
        reuse = stack.enter_context(Reuse())
        batch = BatchSpec(*bundle.manifest.batch) if bundle else _batch_of(session)
        # An ONNX file keeps its own batch: it may be a static one, and other than the engine's.
        asked = None if name.endswith(".onnx") else batch
        prepared = prepare(ModelChoice(name, checkpoint, logits=logits), choice, asked, stages, reuse)
        trial = Trial(batch, choice, limits, 30, rivals or Rivals())
        own_images = _own_images(bundle, prepared)
        build = BuildOptions(Precision.parse(bundle.manifest.precision), batch) if bundle is not None else None
        if session is not None:
            verdict = judge(session, prepared, trial, now(), stages, own_images)
        else:
            assert bundle is not None and build is not None
            verdict = judge_twin(bundle.deploy, build, prepared, trial, now(), stages, own_images)
        graph = bundle.deploy if bundle else judged.file
        located = Located(
            notes=(
                f"Where the error comes from was not located: {graph.name} holds no ONNX graph to follow layer by "
                "layer; the .onnx file that it was built from does.",
            )
        )
        if graph.suffix == ".onnx":
            with stages.stage("Locating the error, layer by layer"):
                plan = judged.target.analysis(graph, build) if build is not None else None
                located = locate(graph, prepared, batch, plan)
    executed = session is not None
    notes = [f"Judged as found: {engine}.", *prepared.on_outputs]
    if not executed:
        notes.append(f"The engine was not executed: {capability.reason}.")
    size = Size(
        deploy_onnx_bytes=bundle.deploy.stat().st_size if bundle else 0,
        engine_bytes=sum(file.stat().st_size for file in judged.files),
    )
    found = judgement.judge_gates(
        limits,
        parity=verdict.parity,
        accuracy=verdict.accuracy,
        latency=verdict.latency,
        size=size,
        executed=executed,
        measured_on=verdict.measured_on,
    )
    model = prepared.model
    report = Report(
        model=ModelInfo(name=model.name, source=model.source, weights=model.weights, parameters=model.parameters),
        precision=bundle.manifest.precision if bundle else "as given",
        target=capability.target,
        executed=executed,
        measured_on=verdict.measured_on,
        reference=prepared.reference.short,
        created=now(),
        command=command,
        environment=environment(capability),
        rewrite=RewriteReport(),
        parity=verdict.parity,
        accuracy=verdict.accuracy,
        latency=verdict.latency,
        drift=list(located.rows),
        findings=[*verdict.findings, *layer_findings(located.rows)],
        size=size,
        gates=found,
        passed=judgement.passed(found),
        notes=[*notes, *verdict.notes, *located.notes],
    )
    if output is not None:
        write_reports(report, output, flipped(report, prepared.test))
    return report


def original_of(bundle: Bundle, checkpoint: Path | None, reference: str | None = None) -> str:
    """The network that a bundle was made from, as ``--model`` takes it, or the one that the user names instead.

    Raises:
        InputError: its weights came from a checkpoint that nobody named.
    """
    name = reference or bundle.manifest.model.source.removeprefix("sample:")
    if bundle.manifest.model.weights == "checkpoint" and checkpoint is None and _needs_weights(name):
        raise InputError(f"{bundle.path} was made from a checkpoint: name the same one with --checkpoint")
    return name


def _find(engine: Path) -> _Judged:
    if engine.is_dir():
        bundle = Bundle.read(engine)
        return _Judged(bundle.engine, get(bundle.manifest.target), bundle)
    if not engine.is_file():
        raise InputError(f"there is no engine at {engine}: name a bundle, an .onnx, an .xml or a .plan file")
    return _Judged(engine, target_of_file(engine), None)


def _check_tensors(engine: Path, session: Session) -> None:
    if len(session.inputs) != 1:
        names = ", ".join(spec.name for spec in session.inputs)
        raise InputError(
            f"{engine} has {len(session.inputs)} inputs ({names}): only engines that take one tensor of images can be "
            "judged, so export it with one"
        )
    shapes = [spec.shape for spec in session.outputs]
    if len(session.inputs[0].shape) != 4 or all(len(shape) != 2 for shape in shapes):
        raise InputError(
            f"{engine} turns {session.inputs[0].shape} into {', '.join(map(str, shapes))}: only engines that turn "
            "images (N, C, H, W) into logits (N, classes) can be judged"
        )


def _own_images(bundle: Bundle | None, prepared: Prepared) -> ImageList | None:
    """The test's images as the bundle's engine reads them, where that is not how the original does."""
    if bundle is None:
        return None
    recorded = bundle.manifest.preprocessing
    if recorded == prepared.preprocess:
        return None
    source = load_data(prepared.data.spec, recorded, calibration_limit=len(prepared.data.calibration), workers=2)
    return source.test if source.test is not None else source.calibration


def _needs_weights(name: str) -> bool:
    from radixrt.export.source.samples import find

    return find(name) is None and not name.endswith(".onnx")


def _batch_of(session: Session | None) -> BatchSpec:
    assert session is not None
    size = session.inputs[0].shape[0]
    return BatchSpec(1, 8) if size == -1 else BatchSpec(size, size)
