"""``radixrt validate``: an engine that exists, ours or somebody else's, is held against the original network."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from radixrt.engines.base import BuildOptions, Target
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.registry import get, target_of_file
from radixrt.engines.session import Session
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Precision
from radixrt.files import translate_disk_errors
from radixrt.judge.locate import Located, locate
from radixrt.judge.measure import Trial, judge
from radixrt.judge.regression import own_images
from radixrt.judge.report import Subject, build_report, flipped, write_reports
from radixrt.judge.stand_in import judge_stand_in
from radixrt.judge.verdict import Verdict
from radixrt.options import ModelChoice
from radixrt.prepare.network import Prepared, prepare
from radixrt.prepare.reference import SavedResults, is_saved
from radixrt.progress import Stages
from radixrt.request import ValidateRequest
from radixrt.reuse import Kept, Reuse
from radixrt.validate.schema import Report, Size
from radixrt.validate.vain_limits import refuse_vain_limits


@dataclass(frozen=True)
class _Found:
    """What is to be judged, as it was ``given``; ``bundle`` is absent for an engine that somebody else made.

    ``file`` is absent where the bundle leaves its engine to the device.
    """

    given: Path
    file: Path | None
    target: Target
    bundle: Bundle | None

    @property
    def options(self) -> BuildOptions | None:
        """Those that a bundle's engine was built with, as far as its manifest says."""
        if self.bundle is None:
            return None
        manifest = self.bundle.manifest
        return BuildOptions(Precision.parse(manifest.precision), BatchSpec(*manifest.batch), sides=manifest.sides)

    def subject(self, request: ValidateRequest) -> Subject:
        """What the report is of."""
        return Subject(
            capability=self.target.capability(),
            precision=self.bundle.manifest.precision if self.bundle else "as given",
            size=Size(
                deploy_onnx_bytes=self.bundle.deploy.stat().st_size if self.bundle else 0,
                engine_bytes=sum(file.stat().st_size for file in self.files) if self.file else None,
            ),
            command=request.command,
            introduction=(f"Judged as found: {self.given}.",),
        )

    @property
    def files(self) -> set[Path]:
        """The engine with what it reads beside itself."""
        if self.file is None:
            return set()
        if self.bundle is not None:
            return set(self.file.parent.glob(f"{self.file.stem}.*"))
        return self.target.files_of(self.file)


def validate_engine(request: ValidateRequest, stages: Stages | None = None) -> Report:
    """Runs an engine and its original over the same images, times both, and judges the gates.

    A bundle's engine reads its images as the bundle records, the original as it does by itself: where the two differ,
    the report says how. Where a bundle's engine cannot run here, its stand-in is judged, and the report says so.

    Args:
        request: the engine, its original, and how it is judged.
        stages: where progress is shown.

    Raises:
        InputError: there is no such engine, no reference for it, or it does not take what the original does.
        UnavailableError: an engine that somebody else made cannot run here.
    """
    stages = stages or Stages()
    found = _find(request.engine)
    saved = SavedResults.read(request.reference)
    choice = _original(request, found)
    if request.output is not None:
        with translate_disk_errors(request.output):
            request.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        session = _open(found, stack)
        batch = BatchSpec(*found.bundle.manifest.batch) if found.bundle else _batch_of(session)
        # An ONNX file keeps its own batch: it may be a static one, and other than the engine's.
        asked = None if choice.name.endswith(".onnx") else batch
        prepared = prepare(choice, request.data, asked, stages, stack.enter_context(Reuse()), found.bundle)
        if saved is not None:
            answers = saved.reference(prepared.data.calibration, prepared.reference)
            prepared = replace(prepared, reference=answers)
        refuse_vain_limits(request.gates, prepared.task.task.name, prepared.task.task.metrics, prepared.network.real)
        trial = Trial(
            batch=batch, data=request.data, limits=request.gates, rounds=request.latency_rounds, rivals=request.rivals
        )
        verdict = _measured(found, session, prepared, trial, stages)
        located = _located(found, prepared, batch, stages, request)
    report = build_report(found.subject(request), prepared, request.gates, Kept(verdict), Kept(located))
    if request.output is not None:
        write_reports(report, request.output, flipped(report, prepared.test), verdict.examples)
    return report


def _original(request: ValidateRequest, found: _Found) -> ModelChoice:
    """The network that the engine was made from; the engine's own graph where its answers are saved results.

    Raises:
        InputError: nobody says which one it is, or where its weights are.
    """
    bundle = found.bundle
    if is_saved(request.reference):
        graph = bundle.deploy if bundle else found.given
        if graph.suffix != ".onnx":
            raise InputError(
                f"{graph} shows no graph that {request.reference} could be answers of: name the original with "
                "--reference, or validate the .onnx file that it was built from"
            )
        logits = request.logits or (bundle.manifest.model.logits if bundle else None)
        return replace(ModelChoice(name=str(graph)), logits=logits, **vars(request.task))
    logits, task = request.logits, request.task
    if bundle is not None:
        logits = logits or bundle.manifest.model.logits
        task = replace(task, task=task.task or bundle.manifest.task)
    if request.module is not None:
        choice = ModelChoice(name=type(request.module).__name__, module=request.module)
    elif bundle is not None:
        name = original_of(bundle, request.checkpoint, request.reference)
        choice = ModelChoice(name=name, checkpoint=request.checkpoint)
    elif request.reference is not None:
        choice = ModelChoice(name=request.reference, checkpoint=request.checkpoint)
    else:
        raise InputError(f"{request.engine} does not say which network it was made from: name it with --reference")
    return replace(choice, logits=logits, **vars(task))


def _open(found: _Found, stack: ExitStack) -> Session | None:
    """The open engine; None where a bundle's cannot run here, so that its stand-in is judged.

    Raises:
        UnavailableError: an engine that somebody else made cannot run here.
    """
    if found.file is None or (found.bundle is not None and not found.target.capability().runs):
        return None
    return stack.enter_context(found.target.open(found.file))


def _measured(found: _Found, session: Session | None, prepared: Prepared, trial: Trial, stages: Stages) -> Verdict:
    images = own_images(found.bundle, prepared)
    if session is not None:
        return judge(session, prepared, trial, stages, images)
    assert found.bundle is not None and found.options is not None
    return judge_stand_in(found.bundle.deploy, found.options, prepared, trial, stages, images)


def _located(found: _Found, prepared: Prepared, batch: BatchSpec, stages: Stages, request: ValidateRequest) -> Located:
    if is_saved(request.reference):
        return Located(notes=("Where the error comes from was not located: saved results are outputs alone.",))
    graph = found.bundle.deploy if found.bundle else found.given
    if graph.suffix != ".onnx":
        return Located(
            notes=(
                f"Where the error comes from was not located: {graph.name} holds no ONNX graph to follow layer by "
                "layer; the .onnx file that it was built from does.",
            )
        )
    with stages.stage("Locating the error, layer by layer"):
        plan = found.target.analysis(graph, found.options) if found.file and found.options else None
        return locate(graph, prepared.graph, prepared.test, batch, plan)


def original_of(bundle: Bundle, checkpoint: Path | None, reference: str | None = None) -> str:
    """The network that a bundle was made from, as ``--model`` takes it, or the one that the user names instead.

    Raises:
        InputError: its weights came from a checkpoint that nobody named, or it was a module in memory.
    """
    kind, _, given = bundle.manifest.model.source.partition(":")
    if reference is None and kind == "memory":
        raise InputError(
            f"{bundle.path} was made from a module in memory ({given}), which no bundle keeps: name what makes it "
            "(net.py:factory, with its --checkpoint); radixrt.validate also takes reference=module"
        )
    name = reference or bundle.manifest.model.source.removeprefix("sample:")
    if bundle.manifest.model.weights == "checkpoint" and checkpoint is None and _needs_weights(name):
        raise InputError(f"{bundle.path} was made from a checkpoint: name the same one with --checkpoint")
    return name


def _find(engine: Path) -> _Found:
    if engine.is_dir():
        bundle = Bundle.read(engine)
        file = bundle.engine if bundle.manifest.engine else None
        return _Found(engine, file, get(bundle.manifest.target), bundle)
    if not engine.is_file():
        raise InputError(f"there is no engine at {engine}: name a bundle, an .onnx, an .xml or a .plan file")
    return _Found(engine, engine, target_of_file(engine), None)


def _needs_weights(name: str) -> bool:
    from radixrt.export.samples.sample import find

    return find(name) is None and not name.endswith(".onnx")


def _batch_of(session: Session | None) -> BatchSpec:
    assert session is not None
    size = session.inputs[0].shape[0]
    return BatchSpec(1, 8) if size == -1 else BatchSpec(size, size)
