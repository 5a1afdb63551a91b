"""``radixrt sensitivity``: which layers INT8 hurts, and what leaving them in float would forgo."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from radixrt.cli_app import (
    CalibrationImagesOpt,
    CheckpointOpt,
    ClassesOpt,
    CropOpt,
    DataOpt,
    InterpolationOpt,
    MeanOpt,
    MethodOpt,
    ModelArg,
    OneTarget,
    PreprocessOpt,
    SeedOpt,
    SizeOpt,
    StdOpt,
    app,
    out,
    stages,
)

BAR = 12


@app.command()
def sensitivity(
    model: ModelArg,
    checkpoint: CheckpointOpt = None,
    num_classes: ClassesOpt = None,
    seed: SeedOpt = 0,
    data: DataOpt = "elpv",
    method: MethodOpt = "minmax",
    calibration_images: CalibrationImagesOpt = 256,
    images: Annotated[int, typer.Option(help="Calibration images that each layer is measured on.")] = 16,
    target: OneTarget = "onnxruntime",
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
    """Measure what INT8 costs in each layer: the SQNR of the logits when that layer alone is quantised."""
    from radixrt.calibration.placement_spec import Ends, PlacementOptions
    from radixrt.calibration.sensitivity import sensitivity as measure
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.deploy import DeployOptions, calibrated, rewritten
    from radixrt.engines.registry import get
    from radixrt.export.spec import BatchSpec, Precision
    from radixrt.prepare import prepare
    from radixrt.request import DataChoice, ModelChoice, positive
    from radixrt.reuse import Reuse
    from radixrt.validate.sensitivity_page import decibels, render_sensitivity

    positive("--images", images)
    positive("--top", top)
    choice = DataChoice(
        data, input_size, mean, std, crop_pct, interpolation, preprocess, calibration_images=calibration_images
    )
    options = CalibrationOptions(Method.parse(method))
    name = get(target).name
    display = stages(5)
    with Reuse() as reuse:
        network = ModelChoice(model, checkpoint, num_classes, seed)
        prepared = prepare(network, choice, BatchSpec.parse("1"), display, reuse)
        calibration = prepared.data.calibration
        with display.stage("Rewriting attention and convolutions"):
            # Forms change the speed of a layer and not its numbers, so there is nothing to measure here.
            deploy = DeployOptions(Precision.INT8, name, "keep", 1, options)
            graph, _ = rewritten(prepared.graph, deploy, reuse, sha256=prepared.graph_sha256)
        with display.stage(f"Calibrating on {len(calibration)} images"):
            table, _ = calibrated(graph, calibration, options, display, reuse)
        few = next(calibration.batches(images)).images
        placement = PlacementOptions(name, first=Ends.INT8, last=Ends.INT8)
        with display.stage("Quantising one layer at a time"):
            rows = measure(graph, table, few, placement, on_progress=lambda p: display.at(p.done, p.total))
    how = f"Each layer alone in INT8, all else in float32; {len(few)} calibration images, placement for {name}."
    if json_file is not None:
        layers = [{**asdict(r), "sqnr_db": None if math.isinf(r.sqnr_db) else r.sqnr_db} for r in rows]
        text = json.dumps({"model": model, "target": name, "images": len(few), "layers": layers}, indent=2) + "\n"
        if str(json_file) == "-":
            typer.echo(text, nl=False)
            return
        _write(json_file, text)
    if html is not None:
        _write(html, render_sensitivity(rows, title=f"Sensitivity of {prepared.model.name}", method=how))
    shown = rows[:top]
    grid = Table("torch module", "operation", "SQNR (dB)", "noise", "INT8 work (%)")
    grid.columns[0].overflow = "fold"  # a name cut short names nothing
    worst = max((row.noise for row in rows), default=1.0) or 1.0
    for row in shown:
        bar = "█" * round(BAR * (row.noise / worst) ** 0.5)  # amplitude: power would leave one bar only
        grid.add_row(row.module, row.op_type, decibels(row.sqnr_db), bar, f"{row.macs_share * 100:.1f}")
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
