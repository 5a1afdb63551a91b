"""A network's graph becomes a target's deploy graph: rewritten, calibrated, and given the types of the precision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir

from radixrt.build.recovery import improved
from radixrt.calibration.data.batch import Samples
from radixrt.calibration.placement.options import PlacementOptions, PlacementReport, timed_layers
from radixrt.calibration.placement.own import OwnPairs, place_own
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate_together
from radixrt.calibration.ranges.table import CalibrationTable, read_table, write_table
from radixrt.calibration.spec import CalibrationOptions, CalibrationSummary, Recovery
from radixrt.engines.forms.choose import rewrite_options
from radixrt.engines.registry import get
from radixrt.errors import InputError, RadixRTError
from radixrt.export.graph.hash import graph_sha256
from radixrt.export.passes.float16 import to_float16
from radixrt.export.passes.pipeline import rewrite
from radixrt.export.passes.report import Float32Node, RewriteReport
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.sides import Sides
from radixrt.export.spec import Precision
from radixrt.machine import machine
from radixrt.progress import Stages
from radixrt.reuse import Codec, Kept, Reuse, Step
from radixrt.validate.schema import Quantization

TABLE_NAME = "calibration.json"
_GRAPH_NAME, _REPORT_NAME = "graph.onnx", "report.json"


@dataclass(frozen=True)
class DeployGraph:
    """A graph ready for one target, with what was done to it.

    Attributes:
        float32: the same graph before it was typed.
        rival: what INT8 has to beat: the graph in float32 without what was done for INT8 alone; None where that is
            ``float32``.
        reused: what was taken from an earlier run.
    """

    model: ir.Model
    float32: ir.Model
    rewrite: RewriteReport
    rival: ir.Model | None = None
    table: CalibrationTable | None = None
    calibration: CalibrationSummary | None = None
    quantization: Quantization | None = None
    float32_nodes: tuple[Float32Node, ...] = ()
    reused: tuple[str, ...] = ()


@dataclass(frozen=True)
class TypedGraph:
    """A graph with the types of a precision. INT8 has a ``placement``; FP16 may leave ``float32_nodes``."""

    model: ir.Model
    placement: PlacementReport | None = None
    float32_nodes: tuple[Float32Node, ...] = ()


@dataclass(frozen=True)
class RewrittenGraph:
    """A float32 graph in the forms that suit a target, and what was done to it."""

    model: ir.Model
    report: RewriteReport


@dataclass(frozen=True)
class Calibrated:
    """The ranges of a graph's tensors; ``reused`` is what of them was taken from an earlier run."""

    table: CalibrationTable
    summary: CalibrationSummary
    reused: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeployOptions:
    """What decides a deploy graph beside the network itself.

    ``batch`` and ``threads`` are those that forms are chosen for, ``sides`` those that the graph leaves free.
    ``beside`` are the targets that the same images calibrate in this run: one pass serves them all.
    """

    precision: Precision
    target: str
    grouped_conv: str
    batch: int
    calibration: CalibrationOptions
    recovery: Recovery = field(default_factory=Recovery)
    threads: int = 0
    sides: Sides | None = None
    beside: tuple[str, ...] = ()


def deploy_graph(
    graph: ir.Model,
    images: Samples,
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
        kept = rewritten(graph, options, reuse, sha256=sha256)
    model, report = kept.value.model, kept.value.report
    if options.precision is not Precision.INT8:
        typed = typed_graph(model, options.precision, options.target, None)
        return DeployGraph(
            model=typed.model,
            float32=model,
            rewrite=report,
            float32_nodes=typed.float32_nodes,
            reused=kept.reused,
        )
    target = get(options.target)
    if (reason := target.refusal(model)) is not None:
        raise InputError(reason)
    others: list[ir.Model] = []
    if options.beside and not reuse.knows(_calibration(model, images, options.calibration)):
        others = [*_rewritten_beside(graph, options, stages, reuse, sha256)]
    with stages.stage(f"Calibrating on {len(images)} images"):
        ranges = calibrated(model, images, options.calibration, stages, reuse, others)
    placement = PlacementOptions(target.traits, timed=timed_layers(report))
    # Answers and errors are gathered over images, which must have one size for that: the middle one.
    one_size = images.at(images.sizes[0]) if images.sizes else images
    better = improved(model, ranges.table, one_size, placement, options.recovery, stages, reuse, target)
    with stages.stage("Placing Q/DQ"):
        placement = replace(placement, exclude=better.exclude)
        typed = typed_graph(better.model, options.precision, options.target, better.table, placement)
    assert typed.placement is not None
    return DeployGraph(
        model=typed.model,
        float32=better.base,
        rewrite=report,
        rival=rewritten(graph, options, reuse, sha256=sha256, rival=True).value.model if report.light_layers else None,
        table=better.table,
        calibration=ranges.summary,
        quantization=quantization(typed.placement, better.sentences),
        float32_nodes=typed.float32_nodes,
        reused=(*kept.reused, *ranges.reused, *better.reused),
    )


def own_deploy_graph(
    graph: ir.Model, own: OwnPairs, images: Samples, options: DeployOptions, stages: Stages, reuse: Reuse
) -> DeployGraph:
    """Makes the deploy graph of a quantised file with its own pairs, in the place of all that is chosen otherwise.

    Grouped convolutions keep their form, and so the weights that the file's integers fit. The arguments are those of
    :func:`deploy_graph`.

    Raises:
        InputError: the target cannot take such pairs.
    """
    with stages.stage("Rewriting attention and convolutions"):
        kept = rewritten(graph, replace(options, precision=Precision.FP32, grouped_conv="keep"), reuse)
    model, traits = kept.value.model, get(options.target).traits
    with stages.stage("Placing the file's own Q/DQ"):
        placed, report, said = place_own(model, graph, own, next(images.batches(1)).inputs, traits)
    half = to_float16(placed) if traits.half_outside_int8 else None
    return DeployGraph(
        model=half.model if half else placed,
        float32=model,
        rewrite=kept.value.report,
        quantization=quantization(report, (said,)),
        float32_nodes=half.float32_nodes if half else (),
        reused=kept.reused,
    )


def rewritten(
    graph: ir.Model,
    options: DeployOptions,
    reuse: Reuse,
    *,
    sha256: str | None = None,
    rival: bool = False,
    for_later: bool = False,
) -> Kept[RewrittenGraph]:
    """Rewrites a graph, or takes what an earlier run made of it; a ``rival`` without what is for INT8 alone.

    What is made ``for_later`` is asked for again in this run.
    """
    target = get(options.target)
    capability = target.capability()

    def make() -> RewrittenGraph:
        chosen = rewrite_options(
            target,
            options.precision,
            options.grouped_conv,
            reuse.forms,
            batch=options.batch,
            threads=options.threads,
        )
        chosen = replace(chosen, sides=options.sides)
        if rival:
            chosen = replace(chosen, choose_light=None, target_passes=target.passes(Precision.FP32))
        return RewrittenGraph(*rewrite(graph.clone(), chosen))

    step = Step(
        "rewrite",
        Codec(_write_rewritten, _read_rewritten),
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
            "rival": rival,
            "sides": str(options.sides),
        },
    )
    return reuse.step(step, make, for_later=for_later)


def _rewritten_beside(
    graph: ir.Model, options: DeployOptions, stages: Stages, reuse: Reuse, sha256: str | None
) -> Iterator[ir.Model]:
    """The graph as the other targets of this run take it, where they do."""
    for name in options.beside:
        with stages.stage(f"Rewriting for {name}, to calibrate on the images once"), suppress(RadixRTError):
            yield rewritten(graph, replace(options, target=name), reuse, sha256=sha256, for_later=True).value.model


def _write_rewritten(rewritten: RewrittenGraph, folder: Path) -> None:
    write_onnx(rewritten.model, folder / _GRAPH_NAME)
    (folder / _REPORT_NAME).write_text(rewritten.report.model_dump_json())


def _read_rewritten(folder: Path) -> RewrittenGraph:
    report = RewriteReport.model_validate_json((folder / _REPORT_NAME).read_bytes())
    return RewrittenGraph(ir.load(folder / _GRAPH_NAME), report)


def calibrated(
    model: ir.Model,
    images: Samples,
    options: CalibrationOptions,
    stages: Stages,
    reuse: Reuse,
    beside: Sequence[ir.Model] = (),
) -> Calibrated:
    """Chooses ranges from images, or takes those of an earlier run on the same images and graph.

    Graphs ``beside`` get theirs from the same pass: who asks for them later in this run finds them.
    """
    parts: list[str] = []
    together: list[CalibrationTable | None] = []

    def resumed(count: int) -> None:
        stages.note(f"Continuing a calibration that was interrupted after {count} images.")
        parts.append(f"the first {count} images of the calibration")

    def make() -> CalibrationTable:
        size = images.together()
        batches = stages.track(images.batches(size), -(-len(images) // size))
        own, *others = calibrate_together(
            [model, *beside],
            (batch.inputs for batch in batches),
            options,
            data_sha256=images.sha256,
            state_path=reuse.unfinished(step),
            on_resume=resumed,
        )
        together.extend(others)
        assert own is not None
        return own

    step = _calibration(model, images, options)
    kept = reuse.step(step, make)
    for other, found in zip(beside, together, strict=False):
        if found is not None:
            reuse.step(_calibration(other, images, options), partial(_same, found), for_later=True)
    table = kept.value if kept.value.method is options.method else kept.value.with_method(options.method)
    return Calibrated(table, table.summary(reused=bool(kept.reused)), (*kept.reused, *parts))


def _same(table: CalibrationTable) -> CalibrationTable:
    return table


def _calibration(model: ir.Model, images: Samples, options: CalibrationOptions) -> Step[CalibrationTable]:
    # A table holds what every method picks, so another method needs no other pass over the images.
    return Step(
        "calibration",
        Codec(lambda table, folder: write_table(table, folder / TABLE_NAME), lambda f: read_table(f / TABLE_NAME)),
        inputs={"graph": graph_sha256(model), "data": images.prepared_sha256},
        options={"percentile": options.percentile},
    )


def typed_graph(
    model: ir.Model,
    precision: Precision,
    target: str,
    table: CalibrationTable | None,
    placement: PlacementOptions | None = None,
) -> TypedGraph:
    """Gives a float32 graph the types of a precision. INT8 needs a table; what stays float is half on GPUs.

    ``placement`` says which layers INT8 takes; by default those that the target's rules say.
    """
    if precision in (Precision.FP32, Precision.BF16):
        return TypedGraph(model)
    if precision is Precision.FP16:
        half = to_float16(model)
        return TypedGraph(half.model, float32_nodes=half.float32_nodes)
    assert table is not None
    traits = get(target).traits
    placed, report = place(model, table, placement or PlacementOptions(traits))
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
