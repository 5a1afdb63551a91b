"""What INT8 costs and saves in each layer of a network, or of the network that a bundle was made from."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from radixrt.build.deploy import DeployOptions, calibrated, rewritten
from radixrt.build.layer_gains import layer_gains
from radixrt.calibration.placement.options import Ends, PlacementOptions, timed_layers
from radixrt.calibration.recovery.sensitivity import LayerSensitivity, sensitivity
from radixrt.engines.base import Target
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.manifest import MANIFEST_NAME
from radixrt.engines.registry import DEFAULT, get
from radixrt.export.feed import length
from radixrt.export.spec import BatchSpec, Precision
from radixrt.fields import as_path
from radixrt.judge.validate import original_of
from radixrt.prepare.network import prepare
from radixrt.progress import Stages
from radixrt.request import SensitivityRequest
from radixrt.reuse import Reuse


@dataclass(frozen=True)
class Sensitivity:
    """The layers, the most sensitive first.

    Attributes:
        model: the network's name.
        target: whose placement was tried.
        images: how many images each layer was measured on.
        timed: the target's profiler showed what INT8 saves.
    """

    rows: tuple[LayerSensitivity, ...]
    model: str
    target: str
    images: int
    timed: bool | None

    @property
    def method(self) -> str:
        """How it was measured, in a few sentences."""
        how = (
            f"Each layer alone in INT8, all else in float32; {self.images} calibration images, placement for "
            f"{self.target}. "
        )
        if self.timed is None:
            return how + f"Times were not measured: {self.target} is not profiled layer by layer here."
        saves = "INT8 saves: its time in FP32 less its time in INT8, by the runtime's profiler, batch 1."
        return how + saves if self.timed else how


def measure_sensitivity(request: SensitivityRequest, stages: Stages) -> Sensitivity:
    """Calibrates a network and measures the logits' SQNR with each layer alone in INT8, and the layer's time.

    Raises:
        InputError: the network, the bundle or the images cannot be used.
    """
    bundle, target = _source(request)
    with ExitStack() as stack:
        reuse = stack.enter_context(Reuse())
        if bundle is not None:
            request = _of_bundle(request, bundle, Path(stack.enter_context(TemporaryDirectory())))
        prepared = prepare(request.model, request.data, BatchSpec(), stages, reuse)
        calibration = prepared.data.calibration
        with stages.stage("Rewriting attention and convolutions"):
            # Forms change the speed of a layer and not its numbers, so there is nothing to measure here.
            options = DeployOptions(
                precision=Precision.INT8,
                target=target.name,
                grouped_conv="keep",
                batch=1,
                calibration=request.calibration,
                sides=prepared.sides,
            )
            found = rewritten(prepared.graph, options, reuse, sha256=prepared.graph_sha256).value
            graph = found.model
        with stages.stage(f"Calibrating on {len(calibration)} images"):
            table = calibrated(graph, calibration, request.calibration, stages, reuse).table
        few = next(calibration.batches(request.images)).inputs
        timed = timed_layers(found.report)
        placement = PlacementOptions(target.traits, first=Ends.INT8, last=Ends.INT8, timed=timed)
        with stages.stage("Profiling FP32 and INT8"):
            gains = layer_gains(graph, table, placement, target)
        with stages.stage("Quantising one layer at a time"):
            rows = sensitivity(
                graph,
                table,
                few,
                placement,
                outputs=prepared.task.task.aims(prepared.network),
                gains=gains,
                on_progress=lambda p: stages.at(p.done, p.total, p.seconds_left),
            )
    return Sensitivity(
        rows=rows,
        model=prepared.model.name,
        target=target.name,
        images=length(few),
        timed=None if gains is None else bool(gains),
    )


def _source(request: SensitivityRequest) -> tuple[Bundle | None, Target]:
    path = Path(request.model.name)
    bundle = Bundle.read(path) if (path / MANIFEST_NAME).is_file() else None
    return bundle, get(request.target or (bundle.manifest.target if bundle else DEFAULT))


def _of_bundle(request: SensitivityRequest, bundle: Bundle, scratch: Path) -> SensitivityRequest:
    """The same, for the network that a bundle was made from, with the preprocessing that it records."""
    manifest = bundle.manifest
    name = original_of(bundle, as_path(request.model.checkpoint))
    task = request.model.task or manifest.task
    model = replace(request.model, name=name, logits=manifest.model.logits, task=task)
    data = request.data
    if data.preprocess is None and manifest.preprocessing is not None:
        recorded = scratch / "preprocess.json"
        recorded.write_text(manifest.preprocessing.model_dump_json(), encoding="utf-8")
        data = replace(data, preprocess=recorded)
    return replace(request, model=model, data=data)
