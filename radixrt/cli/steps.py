"""The stages of a build, one command each: what ``radixrt engine`` does in one go, file by file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from radixrt.cli.app import err, say, stages, write_text
from radixrt.cli.command import command
from radixrt.fields import part, words
from radixrt.options import (
    CalibrateOptions,
    DataOptions,
    EngineBuildOptions,
    ExportOptions,
    ModelChoice,
    QuantizeOptions,
    RewriteFileOptions,
)


@command(ExportOptions)
def export(options: ExportOptions) -> None:
    """Runs ``radixrt export``."""
    from radixrt.export.reader.simplify import write_onnx
    from radixrt.export.spec import BatchSpec
    from radixrt.prepare.network import prepare
    from radixrt.reuse import Reuse

    choice = part(options, ModelChoice, name=options.model)
    with Reuse() as reuse:
        batch = BatchSpec.parse(str(options.batch))
        prepared = prepare(choice, part(options, DataOptions), batch, stages(), reuse)
    write_onnx(prepared.graph, options.output)
    if prepared.capture_error is not None:
        say(f"{options.output}: differs from PyTorch by at most {prepared.capture_error:.2g} on real images")


@command(RewriteFileOptions)
def rewrite(options: RewriteFileOptions) -> None:
    """Runs ``radixrt rewrite``."""
    from radixrt.engines.forms.choose import rewrite_options
    from radixrt.engines.registry import get
    from radixrt.export.graph.shapes import graph_sides
    from radixrt.export.passes.pipeline import rewrite as do_rewrite
    from radixrt.export.reader.sandbox import read_foreign
    from radixrt.export.reader.simplify import write_onnx
    from radixrt.export.spec import FileChoice, Precision
    from radixrt.prepare.inputs import asked_sides, asked_size

    display = stages()
    with display.stage("Rewriting attention and convolutions"):
        asked = part(options, DataOptions)
        size, ranges = asked_size(asked), asked_sides(asked)
        forms = rewrite_options(get(options.target), Precision.parse(options.precision), options.grouped_conv)
        foreign = read_foreign(
            options.graph, FileChoice(input_size=size, height=ranges.height, width=ranges.width, opaque=True)
        )
        forms = replace(forms, sides=graph_sides(foreign.graph, ranges.height, ranges.width))
        for text in foreign.remarks:
            display.note(text)
        model, done = do_rewrite(foreign.simplified, forms)
        write_onnx(model, options.output)
        if options.report is not None:
            write_text(options.report, done.model_dump_json(indent=2) + "\n")
    say(
        f"{options.output}: {len(done.attention_blocks)} attention blocks and {len(done.grouped_convs)} grouped "
        f"convolutions rewritten, {len(done.refused)} refused, {done.nodes_before} nodes became {done.nodes_after}"
    )
    for refusal in done.refused:
        err.print(f"refused {refusal.node}: {refusal.reason}", markup=False)


@command(CalibrateOptions)
def calibrate(options: CalibrateOptions) -> None:
    """Runs ``radixrt calibrate``."""
    from radixrt.build.deploy import calibrated
    from radixrt.calibration.ranges.table import write_table
    from radixrt.calibration.ranges.trt_cache import export_cache, import_cache
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.errors import InputError
    from radixrt.export.reader.plain import demand_float
    from radixrt.export.reader.sandbox import read_graph
    from radixrt.prepare.network import prepare
    from radixrt.reuse import Reuse

    graph, output, display = options.graph, options.output, stages()
    if graph.suffix != ".onnx":
        raise InputError(f"{graph} is no .onnx file: make one with `radixrt export {graph} -o graph.onnx`")
    demand_float(read_graph(graph), graph)
    with Reuse() as reuse:
        prepared = prepare(ModelChoice(str(graph)), part(options, DataOptions), None, display, reuse)
        with display.stage(f"Calibrating on {len(prepared.data.calibration)} images"):
            # As it stands, like `quantize`: simplifying once more could leave another graph than the file's.
            assert prepared.model.foreign is not None
            model = prepared.model.foreign.graph
            how = CalibrationOptions(Method.parse(options.method))
            table = calibrated(model, prepared.data.calibration, how, display, reuse).table
    if options.from_cache is not None:
        table = import_cache(options.from_cache, table)
    if options.to_cache is not None:
        text = export_cache(table, options.tensorrt_version, model=model)
        write_text(options.to_cache, text)
        say(f"{options.to_cache}: {text.count(chr(10)) - 1} scales")
    write_table(table, output)
    say(f"{output}: ranges of {len(table.tensors)} tensors from {table.images} images")


@command(QuantizeOptions)
def quantize(options: QuantizeOptions) -> None:
    """Runs ``radixrt quantize``."""
    from radixrt.build.deploy import typed_graph
    from radixrt.calibration.ranges.table import read_table
    from radixrt.errors import InputError
    from radixrt.export.reader.plain import demand_float
    from radixrt.export.reader.sandbox import read_graph
    from radixrt.export.reader.simplify import write_onnx
    from radixrt.export.spec import Precision

    model = read_graph(options.graph)
    demand_float(model, options.graph)
    chosen = Precision.parse(options.precision)
    if chosen is Precision.INT8 and options.table is None:
        raise InputError("int8 needs ranges: make a table with `radixrt calibrate` and name it with --table")
    ranges = read_table(options.table, model=model) if options.table is not None else None
    typed = typed_graph(model, chosen, options.target, ranges)
    write_onnx(typed.model, options.output)
    quantised = f", {len(typed.placement.quantized)} layers quantised" if typed.placement else ""
    say(f"{options.output}: {chosen.value}{quantised}")


@command(EngineBuildOptions)
def build(options: EngineBuildOptions) -> None:
    """Runs ``radixrt build``."""
    from radixrt.engines.base import BuildOptions, PlanOptions
    from radixrt.engines.cache.device import device_cache
    from radixrt.engines.registry import get
    from radixrt.export.graph.shapes import graph_sides
    from radixrt.export.reader.plain import demand_float
    from radixrt.export.reader.sandbox import read_graph
    from radixrt.export.spec import BatchSpec, Precision
    from radixrt.files import make_room

    graph, output = options.graph, options.output
    # The builders believe a graph.
    model = read_graph(graph)
    demand_float(model, graph, Precision.parse(options.precision))
    asked = part(
        part(options, PlanOptions),
        BuildOptions,
        precision=Precision.parse(options.precision),
        batch=BatchSpec.parse(str(options.batch)),
        compute_capabilities=words(options.compute_capability),
        cache_dir=device_cache(),
        sides=graph_sides(model),
    )
    chosen, display = get(options.target), stages()
    make_room(output / "engine")
    # Whole files or none: a build that is stopped leaves nothing in the folder.
    with tempfile.TemporaryDirectory(dir=output, prefix=".radixrt-") as folder:
        with display.stage(f"Building the {chosen.name} engine"):
            built = chosen.build(graph, Path(folder), asked, progress=display.phase)
        files = [file.replace(output / file.name) for file in built.files]
    for file in files:
        say(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    for note in built.notes:
        say(note)
