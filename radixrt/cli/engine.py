"""``radixrt engine``, and what it knows. Heavy libraries load inside the commands, so that help is quick."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from radixrt.cli.app import (
    AgainstOpt,
    BatchOpt,
    CalibrationImagesOpt,
    CheckpointOpt,
    ClassesOpt,
    CropOpt,
    DataOpt,
    DlaOpt,
    GatesOpt,
    GroupedOpt,
    HardwareOpt,
    InterpolationOpt,
    JUnitOpt,
    LogitsOpt,
    MaxBytesOpt,
    MaxP95Opt,
    MeanOpt,
    MethodOpt,
    MinAgreementOpt,
    MinCosineOpt,
    MinSpeedupOpt,
    ModelOpt,
    PrecisionOpt,
    PreprocessOpt,
    RefitOpt,
    SeedOpt,
    SizeOpt,
    StdOpt,
    StrictOpt,
    StripOpt,
    SweepOpt,
    TestImagesOpt,
    VersionOpt,
    app,
    make_room,
    out,
    say,
    stages,
    write_text,
)

if TYPE_CHECKING:
    from radixrt.validate.schema import Candidate


@app.command()
def engine(
    model: ModelOpt = "resnest-nano-elpv",
    precision: PrecisionOpt = "int8",
    target: Annotated[
        list[str] | None,
        typer.Option(help="auto (default), fastest, or targets with commas or one by one: onnxruntime,openvino"),
    ] = None,
    checkpoint: CheckpointOpt = None,
    num_classes: ClassesOpt = None,
    seed: SeedOpt = 0,
    data: DataOpt = "elpv",
    batch: BatchOpt = "1",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: build/MODEL-PRECISION-TARGET.")
    ] = None,
    logits: LogitsOpt = None,
    input_size: SizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    crop_pct: CropOpt = None,
    interpolation: InterpolationOpt = None,
    preprocess: PreprocessOpt = None,
    calibration_images: CalibrationImagesOpt = 256,
    test_images: TestImagesOpt = None,
    method: MethodOpt = "minmax",
    grouped_conv: GroupedOpt = "auto",
    no_recovery: Annotated[
        bool,
        typer.Option("--no-recovery", help="INT8 as calibrated: ranges and biases stay as they are."),
    ] = False,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Top-1 points the engine may lose (1.0); given for int8, layers stay in float until that holds."
        ),
    ] = None,
    min_cosine: MinCosineOpt = None,
    min_agreement: MinAgreementOpt = None,
    max_p95_ms: MaxP95Opt = None,
    max_engine_bytes: MaxBytesOpt = None,
    min_speedup: MinSpeedupOpt = None,
    strict: StrictOpt = False,
    gates: GatesOpt = None,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 lets the runtime choose.")] = 0,
    compute_capability: Annotated[str | None, typer.Option(help="tensorrt-rtx: such as 8.6,8.9,12.0.")] = None,
    workspace_mb: Annotated[int | None, typer.Option(min=1, help="TensorRT: builder workspace, in MiB.")] = None,
    builder_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="TensorRT: builder optimisation level.")
    ] = None,
    dla_core: DlaOpt = None,
    refit: RefitOpt = False,
    strip_plan: StripOpt = False,
    version_compatible: VersionOpt = False,
    hardware_compatible: HardwareOpt = False,
    latency_rounds: Annotated[
        int, typer.Option(min=1, help="Timed rounds per batch size; at least 10 are taken.")
    ] = 30,
    against: AgainstOpt = None,
    batch_sweep: SweepOpt = None,
    junit: JUnitOpt = None,
    sign_key: Annotated[Path | None, typer.Option(help="An Ed25519 private key: sign the bundle.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from earlier runs.")] = False,
) -> None:
    """Compile a network into an engine, hold it against the original, and leave a bundle with its report."""
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.engines.base import BuildOptions
    from radixrt.export.spec import BatchSpec, Precision
    from radixrt.options import DataChoice, EngineRequest, ModelChoice
    from radixrt.validate.gates import read_gates
    from radixrt.validate.rivals import Rivals

    make_room(junit)
    request = EngineRequest(
        model=ModelChoice(model, checkpoint, num_classes, seed, logits=logits),
        data=DataChoice(
            source=data,
            input_size=input_size,
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            interpolation=interpolation,
            preprocess_file=preprocess,
            calibration_images=calibration_images,
            test_images=test_images,
        ),
        build=BuildOptions(
            precision=Precision.parse(precision),
            batch=BatchSpec.parse(batch),
            threads=threads,
            workspace_bytes=None if workspace_mb is None else workspace_mb << 20,
            builder_level=builder_level,
            compute_capabilities=tuple(compute_capability.split(",")) if compute_capability else (),
            dla_core=dla_core,
            refit=refit,
            strip_weights=strip_plan,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
        ),
        targets=tuple(name.strip() for names in target or ["auto"] for name in names.split(",")),
        grouped_conv=grouped_conv,
        calibration=CalibrationOptions(Method.parse(method)),
        recovery=not no_recovery,
        gates=read_gates(
            gates,
            max_drop=max_drop,
            min_cosine=min_cosine,
            min_agreement=min_agreement,
            max_p95_ms=max_p95_ms,
            max_engine_bytes=max_engine_bytes,
            min_speedup=min_speedup,
            strict=strict or None,
        ),
        latency_rounds=latency_rounds,
        rivals=Rivals.parse(against or (), batch_sweep),
        output=output,
        fresh=fresh,
        sign_key=sign_key,
        command=shlex.join(["radixrt", *sys.argv[1:]]),
    )
    from radixrt.build.pipeline import Engine

    run = Engine(request, stages())
    try:
        run.run()
    finally:
        for result in run.results:
            print_result(result.bundle.path, result.report)
        if run.race.candidates:
            print_candidates(run.race.candidates)
        if run.comparison is not None:
            say(f"\nSide by side: {run.comparison}")
        reports = [result.report for result in run.results] or run.race.losers
        if junit is not None and reports:
            from radixrt.validate.report.junit import render_junit

            write_text(junit, render_junit(reports))


def print_candidates(candidates: Sequence[Candidate]) -> None:
    """The targets that the fastest was chosen from."""
    from radixrt.validate.report.rows import CANDIDATE_HEAD, candidate_rows

    table = Table(*CANDIDATE_HEAD)
    for row in candidate_rows(candidates):
        table.add_row(*map(str, row))
    out.print(table)


def print_result(path: Path, report: object) -> None:
    """The few numbers that answer whether the engine is good, and where the rest stands."""
    from radixrt.validate.report.summary import tiles, verdict
    from radixrt.validate.schema import Report

    assert isinstance(report, Report)
    said = verdict(report)
    colour = {"good": "green", "bad": "red", "unproved": "yellow"}[said.tone]
    say(Text.assemble("\n", (str(path), "bold"), "  ", (said.title, colour)))
    table = Table.grid(padding=(0, 2))
    for tile in tiles(report):
        table.add_row(tile.label, Text(tile.value, "bold"), Text(tile.note, "dim"))
    out.print(table)
    say(Text(f"The whole report: {path / 'report.html'}", "dim"))


@app.command()
def models(
    attention: Annotated[bool, typer.Option(help="Compile each one's graph and count its attention blocks.")] = False,
) -> None:
    """List the networks that have a name, or count their attention blocks."""
    from radixrt.export.source.names import known_models

    if attention:
        from radixrt.cli.census import print_attention

        print_attention(out, stages())
        return
    table = Table("name", "family", "definition")
    for known in known_models():
        table.add_row(known.name, known.family, known.definition)
    out.print(table)
    say("Also: timm:NAME, resnest:NAME, pkg.module:factory, file.py:factory, file.onnx")


@app.command()
def targets() -> None:
    """Tell for each target whether it builds and runs here, or why not and how to install it."""
    from radixrt.engines.registry import all_targets

    table = Table("target", "builds", "runs", "version", "device", "why not, and what to do")
    for target in all_targets():
        can = target.capability()
        why = f"{can.reason}. {can.hint}" if can.reason else ""
        table.add_row(can.target, _yes(can.builds), _yes(can.runs), can.version, can.device, why)
    out.print(table)


def _yes(value: bool) -> Text:
    return Text("yes", "green") if value else Text("no", "yellow")
