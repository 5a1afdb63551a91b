"""``radixrt sensitivity``: which layers INT8 hurts, and what leaving them in float would forgo."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.table import Table

from radixrt.cli.app import (
    MODEL_HELP,
    CalibrationImagesOpt,
    CheckpointOpt,
    ClassesOpt,
    CropOpt,
    DataOpt,
    InterpolationOpt,
    MeanOpt,
    MethodOpt,
    PreprocessOpt,
    SeedOpt,
    SizeOpt,
    StdOpt,
    app,
    out,
    stages,
)

BAR = 12
SOURCE_HELP = f"A bundle, whose network, preprocessing and target are taken; or a network. {MODEL_HELP}"


@app.command()
def sensitivity(
    model: Annotated[str, typer.Argument(metavar="BUNDLE|MODEL", help=SOURCE_HELP)],
    checkpoint: CheckpointOpt = None,
    num_classes: ClassesOpt = None,
    seed: SeedOpt = 0,
    data: DataOpt = "elpv",
    method: MethodOpt = "minmax",
    calibration_images: CalibrationImagesOpt = 256,
    images: Annotated[int, typer.Option(help="Calibration images that each layer is measured on.")] = 16,
    target: Annotated[str | None, typer.Option(help="Default: the bundle's, or onnxruntime.")] = None,
    input_size: SizeOpt = None,
    mean: MeanOpt = None,
    std: StdOpt = None,
    crop_pct: CropOpt = None,
    interpolation: InterpolationOpt = None,
    preprocess: PreprocessOpt = None,
    top: Annotated[int | None, typer.Option(help="Print only so many layers, the most sensitive ones.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table as JSON, - for the terminal.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the table and its plot as one self-contained page.")] = None,
) -> None:
    """Measure what INT8 costs and saves in each layer: the logits' SQNR with that layer alone in INT8, and its time."""
    from radixrt.build.deploy import DeployOptions, calibrated, rewritten
    from radixrt.build.layer_gains import layer_gains
    from radixrt.calibration.placement.options import Ends, PlacementOptions
    from radixrt.calibration.recovery.sensitivity import sensitivity as measure
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.engines.bundle.folder import Bundle
    from radixrt.engines.bundle.manifest import MANIFEST_NAME
    from radixrt.engines.registry import DEFAULT, get
    from radixrt.export.spec import BatchSpec, Precision
    from radixrt.judge.validate import original_of
    from radixrt.options import DataChoice, ModelChoice, positive
    from radixrt.prepare import prepare
    from radixrt.reuse import Reuse
    from radixrt.validate.report.sensitivity import decibels, render_sensitivity, saving

    positive("--images", images)
    positive("--top", top)
    choice = DataChoice(
        data, input_size, mean, std, crop_pct, interpolation, preprocess, calibration_images=calibration_images
    )
    options = CalibrationOptions(Method.parse(method))
    bundle = Bundle.read(Path(model)) if (Path(model) / MANIFEST_NAME).is_file() else None
    engine = get(target or (bundle.manifest.target if bundle else DEFAULT))
    name = engine.name
    display = stages()
    with ExitStack() as stack:
        reuse = stack.enter_context(Reuse())
        network = ModelChoice(model, checkpoint, num_classes, seed)
        if bundle is not None:
            network = replace(network, name=original_of(bundle, checkpoint), logits=bundle.manifest.model.logits)
            if preprocess is None:
                recorded = Path(stack.enter_context(TemporaryDirectory())) / "preprocess.json"
                recorded.write_text(bundle.manifest.preprocessing.model_dump_json(), encoding="utf-8")
                choice = replace(choice, preprocess_file=recorded)
        prepared = prepare(network, choice, BatchSpec.parse("1"), display, reuse)
        calibration = prepared.data.calibration
        with display.stage("Rewriting attention and convolutions"):
            # Forms change the speed of a layer and not its numbers, so there is nothing to measure here.
            deploy = DeployOptions(Precision.INT8, name, "keep", 1, options)
            graph, _ = rewritten(prepared.graph, deploy, reuse, sha256=prepared.graph_sha256)
        with display.stage(f"Calibrating on {len(calibration)} images"):
            table, _ = calibrated(graph, calibration, options, display, reuse)
        few = next(calibration.batches(images)).images
        placement = PlacementOptions(engine.traits, first=Ends.INT8, last=Ends.INT8)
        with display.stage("Profiling FP32 and INT8"):
            gains = layer_gains(graph, table, placement, engine)
        with display.stage("Quantising one layer at a time"):
            rows = measure(
                graph,
                table,
                few,
                placement,
                gains=gains,
                on_progress=lambda p: display.at(p.done, p.total, p.seconds_left),
            )
    how = (
        f"Each layer alone in INT8, all else in float32; {len(few)} calibration images, placement for {name}. "
        + ("INT8 saves: its time in FP32 less its time in INT8, by the runtime's profiler, batch 1." if gains else "")
        + (f"Times were not measured: {name} is not profiled layer by layer here." if gains is None else "")
    )
    if html is not None:
        _write(html, render_sensitivity(rows, title=f"Sensitivity of {prepared.model.name}", method=how))
    if json_file is not None:
        layers = [{**asdict(r), "sqnr_db": None if math.isinf(r.sqnr_db) else r.sqnr_db} for r in rows]
        text = json.dumps({"model": model, "target": name, "images": len(few), "layers": layers}, indent=2) + "\n"
        if str(json_file) == "-":
            typer.echo(text, nl=False)
            return
        _write(json_file, text)
    shown = rows[:top]
    grid = Table("torch module", "operation", "SQNR (dB)", "noise", "INT8 work (%)", "INT8 saves (ms)")
    grid.columns[0].overflow = "fold"  # a name cut short names nothing
    worst = max((row.noise for row in rows), default=1.0) or 1.0
    for row in shown:
        bar = "█" * round(BAR * (row.noise / worst) ** 0.5)  # amplitude: power would leave one bar only
        grid.add_row(row.module, row.op_type, decibels(row.sqnr_db), bar, f"{row.macs_share * 100:.1f}", saving(row))
    out.print(grid)
    if len(shown) < len(rows):
        out.print(f"{len(rows) - len(shown)} less sensitive layers are not shown")
    out.print(how, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    from radixrt.errors import InputError

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder that is writable") from error
