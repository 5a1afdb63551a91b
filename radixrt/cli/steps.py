"""The stages of a build, one command each: what ``radixrt engine`` does in one go, file by file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from radixrt.cli.app import (
    BatchOpt,
    CalibrationImagesOpt,
    CheckpointOpt,
    ClassesOpt,
    CropOpt,
    DataOpt,
    DlaOpt,
    GroupedOpt,
    HardwareOpt,
    InterpolationOpt,
    LogitsOpt,
    MeanOpt,
    MethodOpt,
    ModelArg,
    OneTarget,
    OutputFile,
    PrecisionOpt,
    PreprocessOpt,
    RefitOpt,
    SeedOpt,
    SizeOpt,
    StdOpt,
    StripOpt,
    VersionOpt,
    app,
    err,
    make_room,
    say,
    stages,
    write_text,
)
from radixrt.engines.registry import DEFAULT

GraphArg = Annotated[Path, typer.Argument(help="An .onnx file.")]


@app.command()
def export(
    model: ModelArg,
    output: OutputFile,
    checkpoint: CheckpointOpt = None,
    num_classes: ClassesOpt = None,
    seed: SeedOpt = 0,
    batch: BatchOpt = "1",
    data: DataOpt = "elpv",
    input_size: SizeOpt = None,
    logits: LogitsOpt = None,
) -> None:
    """Capture a network as a simplified ONNX graph, held against PyTorch on real images."""
    from radixrt.export.reader.simplify import write_onnx
    from radixrt.export.spec import BatchSpec
    from radixrt.options import DataChoice, ModelChoice
    from radixrt.prepare import prepare
    from radixrt.reuse import Reuse

    choice = ModelChoice(model, checkpoint, num_classes, seed, logits=logits)
    with Reuse() as reuse:
        prepared = prepare(choice, DataChoice(data, input_size), BatchSpec.parse(batch), stages(), reuse)
    write_onnx(prepared.graph, output)
    if prepared.capture_error is not None:
        say(f"{output}: differs from PyTorch by at most {prepared.capture_error:.2g} on real images")


@app.command()
def rewrite(
    graph: GraphArg,
    output: OutputFile,
    report: Annotated[Path | None, typer.Option(help="Where to write what was done, as JSON.")] = None,
    target: OneTarget = DEFAULT,
    precision: PrecisionOpt = "fp32",
    grouped_conv: GroupedOpt = "auto",
) -> None:
    """Rewrite any ONNX file: attention into its canonical form, grouped convolutions into the form that runs best."""
    from radixrt.engines.forms.choose import rewrite_options
    from radixrt.engines.registry import get
    from radixrt.export.passes.pipeline import rewrite as do_rewrite
    from radixrt.export.reader.sandbox import read_foreign
    from radixrt.export.reader.simplify import write_onnx
    from radixrt.export.spec import Precision

    display = stages()
    with display.stage("Rewriting attention and convolutions"):
        options = rewrite_options(get(target), Precision.parse(precision), grouped_conv)
        foreign = read_foreign(graph)
        for text in foreign.remarks:
            display.note(text)
        model, done = do_rewrite(foreign.simplified, options)
        write_onnx(model, output)
        if report is not None:
            write_text(report, done.model_dump_json(indent=2) + "\n")
    say(
        f"{output}: {len(done.attention_blocks)} attention blocks and {len(done.grouped_convs)} grouped convolutions "
        f"rewritten, {len(done.refused)} refused, {done.nodes_before} nodes became {done.nodes_after}"
    )
    for refusal in done.refused:
        err.print(f"refused {refusal.node}: {refusal.reason}", markup=False)


@app.command()
def calibrate(
    graph: GraphArg,
    output: OutputFile = Path("calibration.json"),
    data: DataOpt = "elpv",
    method: MethodOpt = "minmax",
    calibration_images: CalibrationImagesOpt = 256,
    input_size: SizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    crop_pct: CropOpt = None,
    interpolation: InterpolationOpt = None,
    preprocess: PreprocessOpt = None,
    to_cache: Annotated[
        Path | None,
        typer.Option(help="Also write the ranges as a TensorRT calibration cache, for TensorRT <= 10 and DLA."),
    ] = None,
    from_cache: Annotated[
        Path | None, typer.Option(help="A TensorRT calibration cache of this graph, whose ranges are taken instead.")
    ] = None,
    tensorrt_version: Annotated[str, typer.Option(help="With --to-cache: the TensorRT that will read it.")] = "8.5.2",
) -> None:
    """Choose a range for each tensor of a graph from images, and write the calibration table."""
    from radixrt.build.deploy import calibrated
    from radixrt.calibration.ranges.table import write_table
    from radixrt.calibration.ranges.trt_cache import export_cache, import_cache
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.errors import InputError
    from radixrt.export.reader.plain import demand_float
    from radixrt.options import DataChoice, ModelChoice
    from radixrt.prepare import prepare
    from radixrt.reuse import Reuse

    choice = DataChoice(
        data, input_size, mean, std, crop_pct, interpolation, preprocess, calibration_images=calibration_images
    )
    display = stages()
    options = CalibrationOptions(Method.parse(method))
    with Reuse() as reuse:
        prepared = prepare(ModelChoice(str(graph)), choice, None, display, reuse)
        with display.stage(f"Calibrating on {len(prepared.data.calibration)} images"):
            # As it stands, like `quantize`: simplifying once more could leave another graph than the file's.
            if prepared.model.foreign is None:
                raise InputError(f"{graph} is no .onnx file: make one with `radixrt export {graph} -o graph.onnx`")
            model = prepared.model.foreign.graph
            demand_float(model, graph)
            table = calibrated(model, prepared.data.calibration, options, display, reuse).table
    if from_cache is not None:
        table = import_cache(from_cache, table)
    if to_cache is not None:
        text = export_cache(table, tensorrt_version, model=model)
        write_text(to_cache, text)
        say(f"{to_cache}: {text.count(chr(10)) - 1} scales")
    write_table(table, output)
    say(f"{output}: ranges of {len(table.tensors)} tensors from {table.images} images")


@app.command()
def quantize(
    graph: GraphArg,
    output: OutputFile,
    table: Annotated[Path | None, typer.Option(help="The calibration table, for int8.")] = None,
    precision: PrecisionOpt = "int8",
    target: OneTarget = DEFAULT,
) -> None:
    """Give a graph the types of a precision: INT8 as Q/DQ pairs with ranges from a table, FP16 as tensor types."""
    from radixrt.build.deploy import typed_graph
    from radixrt.calibration.ranges.table import read_table
    from radixrt.errors import InputError
    from radixrt.export.reader.plain import demand_float
    from radixrt.export.reader.sandbox import read_graph
    from radixrt.export.reader.simplify import write_onnx
    from radixrt.export.spec import Precision

    model = read_graph(graph)
    demand_float(model, graph)
    chosen = Precision.parse(precision)
    if chosen is Precision.INT8 and table is None:
        raise InputError("int8 needs ranges: make a table with `radixrt calibrate` and name it with --table")
    ranges = read_table(table, model=model) if table is not None else None
    typed = typed_graph(model, chosen, target, ranges)
    write_onnx(typed.model, output)
    quantised = f", {len(typed.placement.quantized)} layers quantised" if typed.placement else ""
    say(f"{output}: {chosen.value}{quantised}")


@app.command()
def build(
    graph: GraphArg,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder that takes the engine's files.")],
    target: OneTarget = DEFAULT,
    precision: PrecisionOpt = "fp32",
    batch: BatchOpt = "1",
    compute_capability: Annotated[str | None, typer.Option(help="tensorrt-rtx: such as 8.6,8.9,12.0.")] = None,
    dla_core: DlaOpt = None,
    refit: RefitOpt = False,
    strip_plan: StripOpt = False,
    version_compatible: VersionOpt = False,
    hardware_compatible: HardwareOpt = False,
) -> None:
    """Build an engine from a deploy graph, without a bundle around it."""
    from radixrt.engines.base import BuildOptions
    from radixrt.engines.cache.device import device_cache
    from radixrt.engines.registry import get
    from radixrt.export.reader.plain import demand_float
    from radixrt.export.reader.sandbox import read_graph
    from radixrt.export.spec import BatchSpec, Precision

    # The builders believe a graph.
    demand_float(read_graph(graph), graph, Precision.parse(precision))
    capabilities = tuple(compute_capability.split(",")) if compute_capability else ()
    options = BuildOptions(
        Precision.parse(precision),
        BatchSpec.parse(batch),
        compute_capabilities=capabilities,
        cache_dir=device_cache(),
        dla_core=dla_core,
        refit=refit,
        strip_weights=strip_plan,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )
    chosen, display = get(target), stages()
    make_room(output / "engine")
    # Whole files or none: a build that is stopped leaves nothing in the folder.
    with tempfile.TemporaryDirectory(dir=output, prefix=".radixrt-") as folder:
        with display.stage(f"Building the {chosen.name} engine"):
            built = chosen.build(graph, Path(folder), options, progress=display.phase)
        files = [file.replace(output / file.name) for file in built.files]
    for file in files:
        say(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    for note in built.notes:
        say(note)
