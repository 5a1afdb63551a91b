"""One target's bundle for one device: built here, or by the device where it is a plan, and measured there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from radixrt.build.target import Built, Job, Result, finish, manifest_of
from radixrt.engines.base import GRAPH_NAME, BuiltEngine, Target
from radixrt.engines.bundle.compatibility import Host
from radixrt.engines.bundle.folder import BundleWriter
from radixrt.errors import InputError, UnavailableError
from radixrt.export.graph.save import write_onnx
from radixrt.export.spec import Precision
from radixrt.judge.device import judge_found, write_images
from radixrt.remote.device import Device
from radixrt.remote.visit import Errand, Found, carry_out, look, refusal
from radixrt.request import EngineRequest
from radixrt.reuse import Kept

PLAN_NAME = "engine.plan"


def check_devices(request: EngineRequest, targets: Sequence[Target]) -> None:
    """Finds out, before anything long starts, whether the devices can do what is asked for.

    Raises:
        InputError: an option is for engines that run here, or a device takes none of the targets.
        UnavailableError: a device does not answer, is busy, or lacks what a target needs.
    """
    if not request.devices:
        return
    if request.rivals.names:
        raise InputError("--against is timed on this machine, and --on asks for a device's times: leave one out")
    if request.build.threads:
        raise InputError("--threads is for engines that run here: on a device the runtime chooses, so leave it out")
    for device in request.devices:
        taken = [target for target in targets if device.takes(target.name)]
        if not taken:
            named = ", ".join(target.name for target in targets)
            raise InputError(
                f"{device.name} takes {', '.join(device.targets)}, and the targets are {named}: name one that it takes"
            )
        facts = look(device)
        for target in taken:
            refused = refusal(device, facts, target)
            if refused is not None:
                raise refused
        if facts.holder and not device.wait_s:
            raise UnavailableError(device.name, f"it is busy with {facts.holder}", "Run it again when that is done.")


def compile_on(job: Job, built: Built, device: Device, path: Path) -> Result:
    """Takes a target's engine to a device, and makes the bundle with what the device found.

    Args:
        job: what all targets share.
        built: the engine or its graph, in a folder of its own.
        device: where it is measured.
        path: where the bundle goes.

    Raises:
        UnavailableError: as :func:`radixrt.remote.visit.carry_out` says; a bundle that stood at ``path`` stands still.
    """
    bench = job.bench
    with BundleWriter(path) as writer, tempfile.TemporaryDirectory(prefix="radixrt-device-") as scratch:
        errand = _errand(job, built, Path(scratch))
        with bench.stages.stage(f"Measuring on {device.name}"):
            found = carry_out(device, errand, Path(scratch), bench.stages.phase)
        verdict = judge_found(found, bench.prepared, bench.trial, bench.stages)
        return finish(job, _with_plan(built, found, writer.folder), Kept(verdict), writer)


def _errand(job: Job, built: Built, scratch: Path) -> Errand:
    bench, images = job.bench, scratch / "images"
    images.mkdir()
    with bench.stages.stage("Packing the bundle and the test images"):
        write_images(bench.prepared, bench.trial, images)
        with BundleWriter(scratch / "bundle") as writer:
            built.copy_to(writer.folder)
            bundle = writer.finish(manifest_of(job, built)).path
        # Without its own forms and types: what a plain export gives on the same runtime.
        with BundleWriter(scratch / "original") as writer:
            write_onnx(bench.prepared.graph, writer.folder / GRAPH_NAME)
            plain = {"engine": None, "precision": Precision.FP32.value, "built_for": None}
            original = writer.finish(manifest_of(job, built).model_copy(update=plain)).path
    return Errand(
        bundle=bundle,
        original=original,
        images=images,
        builds=built.engine is None,
        plans=built.target.traits.compiled,
        sizes=bench.trial.rivals.sizes(bench.trial.batch)[0],
        rounds=bench.trial.rounds,
    )


def _with_plan(built: Built, found: Found, folder: Path) -> Built:
    """The engine with the plan that the device made of its graph, where it did."""
    facts, runtime = found.facts, found.runtime
    host = Host(
        facts.system, facts.machine, runtime["version"], runtime.get("device", ""), runtime.get("capability", "")
    )
    if found.plan is None:
        return replace(built, ran=True)
    plan = folder / PLAN_NAME
    found.plan.replace(plan) if found.plan.stat().st_dev == folder.stat().st_dev else plan.write_bytes(
        found.plan.read_bytes()
    )
    engine = BuiltEngine((plan,), sum(found.seconds.values()))
    return replace(built, engine=engine, host=host, ran=True)
