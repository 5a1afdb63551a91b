"""``radixrt engine``: a network and a precision become one bundle per target, each held against the original."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from radixrt.build.on_device import check_devices, compile_on
from radixrt.build.race import Entrant, Race, run_race
from radixrt.build.target import Job, Result, build, finish
from radixrt.engines.base import BuildOptions, Target
from radixrt.engines.bundle.folder import BundleWriter
from radixrt.engines.bundle.signing import check_private_key
from radixrt.engines.forms.choose import check_policy
from radixrt.engines.registry import FASTEST, auto_targets, get, runnable_targets
from radixrt.errors import GateError, InputError, UnavailableError
from radixrt.export.spec import Precision
from radixrt.judge.engine import Bench, judge_engine
from radixrt.judge.measure import Instruments, Trial
from radixrt.prepare.network import Prepared, prepare
from radixrt.progress import Stages
from radixrt.remote.device import Device
from radixrt.request import EngineRequest
from radixrt.reuse import Reuse
from radixrt.validate.gates import missed
from radixrt.validate.schema import Report
from radixrt.validate.vain_limits import refuse_vain_limits

_RUNS = "Name one that runs here, or a precision."

__all__ = ["Engine", "Result", "choose_targets"]


@dataclass
class Engine:
    """One run of the pipeline.

    ``instruments`` take the times; ``preparer`` is :func:`radixrt.prepare.network.prepare`, or knows its
    answer. ``results`` holds what is finished, also where a later target or gate fails; ``comparison`` is the page that
    puts several targets side by side; ``race`` is how the targets of ``fastest`` did, also where none of them won;
    ``lost`` says why devices were left out that answered at first.
    """

    request: EngineRequest
    stages: Stages
    instruments: Instruments = field(default_factory=Instruments)
    preparer: Callable[..., Prepared] = prepare
    results: list[Result] = field(default_factory=list)
    comparison: Path | None = None
    race: Race = field(default_factory=Race)
    lost: list[UnavailableError] = field(default_factory=list)

    def __repr__(self) -> str:
        request = self.request
        done = "; ".join(map(str, self.results)) or "nothing is finished"
        return f"Engine({request.model.name} {request.precision.value} for {', '.join(request.targets)}: {done})"

    @property
    def reports(self) -> list[Report]:
        """Of what is finished; of every target that was tried where a race has no winner."""
        return [result.report for result in self.results] or self.race.losers

    def run(self) -> list[Result]:
        """Builds every target that was asked for.

        Raises:
            UnavailableError: a target that was named cannot build here, or a device does not answer; nothing was
                started. Or a device was lost on the way: all other bundles are made, and the next run goes on there.
            InputError: something the user gave cannot be used; bundles that stood there stand still.
            GateError: a gate failed; the bundles are kept, and their reports say so. With ``fastest``: no target keeps
                the gates, and no bundle is written.
        """
        request = self.request
        check_policy(request.grouped_conv)
        racing = FASTEST in request.targets or request.any_precision
        targets = choose_targets(request.targets, request.build)
        if request.any_precision:
            targets = tuple(target for target in targets if target.capability().runs)
            if not targets:
                raise UnavailableError("auto", "nothing that runs here was named, and what is timed must run", _RUNS)
        places = [place for target in targets for place in _places(request, target)]
        if racing and request.devices:
            raise InputError("what is raced must run here, and --on names a device: name the targets and a precision")
        check_devices(request, targets)
        for can in (place.target.capability() for place in places if place.device is None):
            if can.on_device:
                self.stages.note(
                    f"No {can.target} plan is built here ({can.reason}): the bundle gets its graph, and "
                    "`python3 run.py --build` in it makes the plan on the device."
                )
        # A race leaves one bundle, wherever the winner's would lie by itself.
        count = 1 if racing else len(places)
        paths = {place: request.bundle_path(place.target.name, count, place.device_name) for place in places}
        for path in paths.values():
            BundleWriter.check_writable(path)
        if request.sign_key is not None:
            check_private_key(request.sign_key)
        with Reuse(fresh=request.fresh) as reuse:
            prepared = self.preparer(request.model, request.data, request.batch, self.stages, reuse)
            refuse_vain_limits(
                request.gates, prepared.task.task.name, prepared.task.task.metrics, prepared.network.real
            )
            trial = Trial(
                batch=request.batch,
                data=request.data,
                limits=request.gates,
                rounds=request.latency_rounds,
                rivals=request.rivals,
                threads=request.build.threads,
                instruments=self.instruments,
                elsewhere="auto" in request.targets,
                streams=request.streams,
            )
            bench = Bench(prepared, trial, self.stages, reuse)
            job = Job(request, bench, tuple(target.name for target in targets))
            if racing:
                self.results.append(
                    run_race(entrants(job, targets, {p.target.name: at for p, at in paths.items()}), self.race)
                )
            else:
                for target in targets:
                    self._compile(job, target, paths)
        if len(self.results) > 1:
            self._compare()
        demand(self.results)
        if self.lost:
            raise self.lost[0] if len(self.lost) == 1 else _together(self.lost)
        return self.results

    def _compile(self, job: Job, target: Target, paths: Mapping[_Place, Path]) -> None:
        """Makes the bundles of one target: of this machine's engine, or of each device's."""
        own = [(place, path) for place, path in paths.items() if place.target is target]
        if own[0][0].device is None:
            with BundleWriter(own[0][1]) as writer:
                built = build(job, target, writer.folder)
                self.results.append(finish(job, built, judge_engine(built.files, job.bench), writer))
            return
        with tempfile.TemporaryDirectory(prefix="radixrt-built-") as scratch:
            built = build(job, target, Path(scratch))
            for place, path in own:
                assert place.device is not None
                try:
                    self.results.append(compile_on(job, built, place.device, path))
                except UnavailableError as error:
                    # Other devices may be there.
                    self.lost.append(error)
                    self.stages.note(str(error))

    def _compare(self) -> None:
        """Puts the reports of several targets on one page beside their bundles."""
        from radixrt.validate.report.compare import render_comparison

        folder = self.results[0].bundle.path.parent
        page = folder / f"{self.request.model.slug}-{self.request.precision_name}.html"
        unfinished = page.with_name(f".{page.name}")
        unfinished.write_text(render_comparison([result.report for result in self.results]), encoding="utf-8")
        self.comparison = unfinished.replace(page)


def entrants(job: Job, targets: Sequence[Target], paths: Mapping[str, Path]) -> list[Entrant]:
    """Who races: every target, in the precision that was asked for, or in each that its engines compute in here."""
    found = []
    for target in targets:
        asked = (job.request.precision,)
        for precision in target.precisions() if job.request.any_precision else asked:
            request = replace(job.request, build=replace(job.request.build, precision=precision))
            name = f"{target.name} {precision.value}" if job.request.any_precision else target.name
            found.append(Entrant(replace(job, request=request), target, paths[target.name], name))
    return found


@dataclass(frozen=True)
class _Place:
    """Where a target's engine is measured: on a device, or here."""

    target: Target
    device: Device | None

    @property
    def device_name(self) -> str:
        return self.device.name if self.device else ""


def _places(request: EngineRequest, target: Target) -> list[_Place]:
    """The devices that take a target's engines, or this machine where none does."""
    devices = [device for device in request.devices if device.takes(target.name)]
    return [_Place(target, device) for device in devices] or [_Place(target, None)]


def _together(lost: Sequence[UnavailableError]) -> UnavailableError:
    names = " and ".join(error.what for error in lost)
    return UnavailableError(names, "; ".join(error.reason for error in lost), "What is done is kept: run it again.")


def demand(results: Sequence[Result]) -> None:
    """Refuses results of which one missed a limit.

    Raises:
        GateError: which bundle missed which limit.
    """
    failed = [f"{r.bundle.path}: {missed(r.report.gates)}" for r in results if not r.report.passed]
    if failed:
        raise GateError("a gate failed, the bundle is kept: " + "; ".join(failed))


def choose_targets(names: Iterable[str], options: BuildOptions) -> tuple[Target, ...]:
    """Resolves ``auto``, ``fastest`` and names, and refuses what cannot build here before anything long starts.

    Raises:
        InputError: an unknown target, ``fastest`` beside others, or an option that a target cannot give.
        UnavailableError: a named target cannot build here, or none can run here.
    """
    names = tuple(names)
    if FASTEST in names:
        if len(names) > 1:
            raise InputError(f"{FASTEST} tries every target that runs here: leave the others out")
        runnable = _in_bf16(options) or runnable_targets()
        if not runnable:
            raise UnavailableError(FASTEST, "no target runs here", "Install one: `pip install onnxruntime`.")
        chosen = {target.name: target for target in runnable}
    else:
        found = (_in_bf16(options) or auto_targets() if name == "auto" else (get(name),) for name in names)
        chosen = {target.name: target for targets in found for target in targets}
    for target in chosen.values():
        capability = target.capability()
        if not capability.builds and not capability.graph:
            raise UnavailableError(target.name, capability.reason, capability.hint)
        target.check_options(options)
    return tuple(chosen.values())


def _in_bf16(options: BuildOptions) -> tuple[Target, ...]:
    """The targets that compute in BF16 here, where that was asked for; none otherwise."""
    if options.precision is not Precision.BF16:
        return ()
    return tuple(target for target in runnable_targets() if not target.lacks_bf16())
