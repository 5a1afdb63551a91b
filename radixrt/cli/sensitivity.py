"""``radixrt sensitivity``: which layers INT8 hurts, and what leaving them in float would forgo."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
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
    write_text,
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
    from radixrt.build.sensitivity import measure_sensitivity
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.options import DataChoice, ModelChoice, SensitivityRequest, positive
    from radixrt.validate.report.sensitivity import decibels, render_sensitivity, saving

    positive("--top", top)
    request = SensitivityRequest(
        model=ModelChoice(name=model, checkpoint=checkpoint, num_classes=num_classes, seed=seed),
        data=DataChoice(
            source=data,
            input_size=input_size,
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            interpolation=interpolation,
            preprocess_file=preprocess,
            calibration_images=calibration_images,
        ),
        calibration=CalibrationOptions(Method.parse(method)),
        images=images,
        target=target,
    )
    found = measure_sensitivity(request, stages())
    rows, how = found.rows, found.method
    if html is not None:
        write_text(html, render_sensitivity(rows, title=f"Sensitivity of {found.model}", method=how))
    if json_file is not None:
        layers = [{**asdict(r), "sqnr_db": None if math.isinf(r.sqnr_db) else r.sqnr_db} for r in rows]
        text = (
            json.dumps({"model": model, "target": found.target, "images": found.images, "layers": layers}, indent=2)
            + "\n"
        )
        if str(json_file) == "-":
            typer.echo(text, nl=False)
            return
        write_text(json_file, text)
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
