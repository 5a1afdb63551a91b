"""A network's graph becomes a target's deploy graph: rewritten, calibrated, and given the types of the precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from radixrt.build.recovery import improved
from radixrt.calibration.data.images import ImageList
from radixrt.calibration.placement.options import PlacementOptions, PlacementReport
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.table import CalibrationTable, read_table, write_table
from radixrt.calibration.spec import CalibrationOptions, CalibrationSummary, Recovery
from radixrt.engines.forms.choose import rewrite_options
from radixrt.engines.machine import machine
from radixrt.engines.registry import get
from radixrt.export.graph.hash import graph_sha256
from radixrt.export.passes.float16 import to_float16
from radixrt.export.passes.pipeline import rewrite
from radixrt.export.passes.report import Float32Node, RewriteReport
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.spec import Precision
from radixrt.progress import Stages
from radixrt.reuse import Reuse
from radixrt.validate.schema import Quantization

CALIBRATION_BATCH = 8
TABLE_NAME = "calibration.json"


@dataclass(frozen=True)
class DeployGraph:
    """A graph ready for one target, with what was done to it. ``float32`` is the same graph before it was typed."""

    model: ir.Model
    float32: ir.Model
    rewrite: RewriteReport
    table: CalibrationTable | None = None
    calibration: CalibrationSummary | None = None
    quantization: Quantization | None = None
    float32_nodes: tuple[Float32Node, ...] = ()


@dataclass(frozen=True)
class TypedGraph:
    """A graph with the types of a precision. INT8 has a ``placement``; FP16 may leave ``float32_nodes``."""

    model: ir.Model
    placement: PlacementReport | None = None
    float32_nodes: tuple[Float32Node, ...] = ()


@dataclass(frozen=True)
class DeployOptions:
    """What decides a deploy graph beside the network itself.

    ``batch`` and ``threads`` are those that forms are chosen for.
    """

    precision: Precision
    target: str
    grouped_conv: str
    batch: int
    calibration: CalibrationOptions
    recovery: Recovery = field(default_factory=Recovery)
    threads: int = 0


def deploy_graph(
    graph: ir.Model,
    images: ImageList,
    options: DeployOptions,
    stages: Stages,
    reuse: Reuse,
    *,
    sha256: str | None = None,
) -> DeployGraph:
    """Makes the deploy graph of a target.

    Args:
        graph: the network's simplified float32 graph; it is not changed.
        images: those that calibrate.
        options: precision, target, how to choose forms and ranges, and how to bring accuracy back.
        stages: where progress is shown.
        reuse: where results of earlier runs lie.
        sha256: the graph's hash, where it is known already.

    Raises:
        InputError: the images cannot calibrate it.
    """
    with stages.stage("Rewriting attention and convolutions"):
        model, report = rewritten(graph, options, reuse, sha256=sha256)
    if options.precision is not Precision.INT8:
        typed = typed_graph(model, options.precision, options.target, None)
        return DeployGraph(model=typed.model, float32=model, rewrite=report, float32_nodes=typed.float32_nodes)
    with stages.stage(f"Calibrating on {len(images)} images"):
        table, summary = calibrated(model, images, options.calibration, stages, reuse)
    target = get(options.target)
    better = improved(model, table, images, PlacementOptions(target.traits), options.recovery, stages, reuse, target)
    with stages.stage("Placing Q/DQ"):
        typed = typed_graph(better.model, options.precision, options.target, better.table, exclude=better.exclude)
    assert typed.placement is not None
    return DeployGraph(
        model=typed.model,
        float32=better.base,
        rewrite=report,
        table=better.table,
        calibration=summary,
        quantization=quantization(typed.placement, better.sentences),
        float32_nodes=typed.float32_nodes,
    )


def rewritten(
    graph: ir.Model, options: DeployOptions, reuse: Reuse, *, sha256: str | None = None
) -> tuple[ir.Model, RewriteReport]:
    """Rewrites a graph, or takes what an earlier run made of it."""
    capability = get(options.target).capability()
    key = reuse.key(
        "rewrite",
        inputs={"graph": sha256 or graph_sha256(graph)},
        options={
            "target": options.target,
            "version": capability.version,
            # Equal forms are chosen by the clock of the device that they are measured on.
            "device": [capability.device, machine()],
            "threads": options.threads,
            "precision": options.precision.value,
            "grouped_conv": options.grouped_conv,
            "batch": options.batch,
        },
    )
    found = reuse.find(key, "rewrite")
    if found is None:

        def write(folder: Path) -> None:
            chosen = rewrite_options(
                get(options.target),
                options.precision,
                options.grouped_conv,
                reuse.forms,
                batch=options.batch,
                threads=options.threads,
            )
            model, report = rewrite(graph.clone(), chosen)
            write_onnx(model, folder / "graph.onnx")
            (folder / "report.json").write_text(report.model_dump_json())

        found = reuse.keep(key, "rewrite", write)
    return ir.load(found / "graph.onnx"), RewriteReport.model_validate_json((found / "report.json").read_bytes())


def calibrated(
    model: ir.Model, images: ImageList, options: CalibrationOptions, stages: Stages, reuse: Reuse
) -> tuple[CalibrationTable, CalibrationSummary]:
    """Chooses ranges from images, or takes those of an earlier run on the same images and graph."""
    data = images.sha256
    # A table holds what every method picks, so another method needs no other pass over the images.
    inputs = {"graph": graph_sha256(model), "data": images.prepared_sha256}
    key = reuse.key("calibrate", inputs=inputs, options={"percentile": options.percentile})
    found = reuse.find(key, "calibration")
    earlier = found is not None
    if found is None:

        def resumed(count: int) -> None:
            stages.note(f"Continuing a calibration that was interrupted after {count} images.")
            reuse.taken.append(f"the first {count} images of the calibration")

        def write(folder: Path) -> None:
            batches = stages.track(images.batches(CALIBRATION_BATCH), -(-len(images) // CALIBRATION_BATCH))
            table = calibrate(
                model,
                (batch.images for batch in batches),
                options,
                data_sha256=data,
                state_path=reuse.unfinished(key),
                on_resume=resumed,
            )
            write_table(table, folder / TABLE_NAME)

        found = reuse.keep(key, "calibration", write)
    table = read_table(found / TABLE_NAME)
    if table.method is not options.method:
        table = table.with_method(options.method)
    return table, table.summary(reused=earlier)


def typed_graph(
    model: ir.Model,
    precision: Precision,
    target: str,
    table: CalibrationTable | None,
    *,
    exclude: frozenset[str] = frozenset(),
) -> TypedGraph:
    """Gives a float32 graph the types of a precision. INT8 needs a table; what stays float is half on GPUs.

    ``exclude`` names layers that INT8 leaves in float.
    """
    if precision is Precision.FP32:
        return TypedGraph(model)
    if precision is Precision.FP16:
        half = to_float16(model)
        return TypedGraph(half.model, float32_nodes=half.float32_nodes)
    assert table is not None
    traits = get(target).traits
    placed, report = place(model, table, PlacementOptions(traits, exclude=exclude))
    if not traits.half_outside_int8:
        return TypedGraph(placed, report)
    half = to_float16(placed)
    return TypedGraph(half.model, report, half.float32_nodes)


def quantization(report: PlacementReport, recovery: tuple[str, ...] = ()) -> Quantization:
    """What the report says of a placement, and of what was done before it."""
    return Quantization(
        quantized=len(report.quantized),
        kept_float=[f"{kept.module}: {kept.reason}" for kept in report.kept_float],
        float_round_trips=report.float_round_trips,
        recovery=list(recovery),
    )
