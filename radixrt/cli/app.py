"""What the commands share: the application, the consoles, and options that mean the same everywhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from radixrt.errors import InputError

if TYPE_CHECKING:
    from radixrt.progress import Stages

app = typer.Typer(
    name="radixrt",
    help="Compile channel-attention CNNs into FP32, FP16 and INT8 engines, and prove them against the original.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A pipe has no width: tables get one that cuts no name. Nothing in brackets is markup: paths and layers have them too.
out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)

MODEL_HELP = (
    "A name from `radixrt models`, timm:NAME, resnest:NAME, pkg.module:factory, file.py:factory (both run that code), "
    "or a path to an .onnx file."
)
ModelOpt = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)]
ModelArg = Annotated[str, typer.Argument(help=MODEL_HELP)]
CheckpointOpt = Annotated[Path | None, typer.Option(help="Trained weights: .pth, .pt or .safetensors.")]
ClassesOpt = Annotated[int | None, typer.Option(help="Classes of the head, where no checkpoint decides.")]
SeedOpt = Annotated[int, typer.Option(help="Seed of weights that no one trained.")]
PrecisionOpt = Annotated[str, typer.Option("--precision", "-p", help="fp32, fp16 or int8.")]
DataOpt = Annotated[str, typer.Option(help="elpv, a folder of class folders, a flat folder, or a CSV of path,label.")]
BatchOpt = Annotated[str, typer.Option(help="Batch sizes: one (8) or a range (1..8).")]
SizeOpt = Annotated[str | None, typer.Option(help="Channels, height, width: 3,128,128.")]
MeanOpt = Annotated[str | None, typer.Option(help="Mean per channel, on the scale 0 to 1.")]
StdOpt = Annotated[str | None, typer.Option(help="Standard deviation per channel, on the scale 0 to 1.")]
CropOpt = Annotated[float | None, typer.Option(help="Share of the resized image that the centre crop keeps.")]
InterpolationOpt = Annotated[str | None, typer.Option(help="bilinear, bicubic, nearest, ...")]
PreprocessOpt = Annotated[Path | None, typer.Option(help="A JSON file with the preprocessing.")]
CalibrationImagesOpt = Annotated[int, typer.Option(min=1, help="At most so many images calibrate.")]
TestImagesOpt = Annotated[int | None, typer.Option(min=1, help="At most so many images judge. Default: all.")]
MethodOpt = Annotated[str, typer.Option(help="minmax, percentile, entropy or mse.")]
GroupedOpt = Annotated[str, typer.Option(help="Grouped convolutions: keep, split, merge, dense or auto (measured).")]
LogitsOpt = Annotated[
    str | None,
    typer.Option(help="The output that is the logits, where a network has several. Default: the first N x classes."),
]
AgainstOpt = Annotated[
    list[str] | None, typer.Option(help="Also time `compile` (torch.compile, minutes) or an earlier BUNDLE.")
]
SweepOpt = Annotated[str | None, typer.Option(help="Batch sizes to time, where the engine takes them: 1,2,4,8.")]
MinCosineOpt = Annotated[float | None, typer.Option(help="Smallest cosine of the logits.")]
MinAgreementOpt = Annotated[float | None, typer.Option(help="Share of equal top-1 answers, 0 to 1.")]
MaxP95Opt = Annotated[float | None, typer.Option(help="95th percentile of the latency, in milliseconds.")]
MaxBytesOpt = Annotated[int | None, typer.Option(help="Size of the engine's files.")]
MinSpeedupOpt = Annotated[float | None, typer.Option(help="Median latency of the original over the engine's.")]
StrictOpt = Annotated[bool, typer.Option("--strict", help="Judge --max-drop by the bound of its 95 % interval.")]
GatesOpt = Annotated[Path | None, typer.Option(help="A gates.toml; options take precedence.")]
JUnitOpt = Annotated[Path | None, typer.Option(help="Also write the gates as JUnit XML.")]
DlaOpt = Annotated[
    int | None, typer.Option(help="TensorRT: the DLA core that takes the layers it can; the GPU the rest.")
]
RefitOpt = Annotated[bool, typer.Option("--refit", help="TensorRT: a plan whose weights can be replaced.")]
StripOpt = Annotated[
    bool, typer.Option("--strip-plan", help="TensorRT: a plan without weights; it takes those of deploy.onnx.")
]
VersionOpt = Annotated[
    bool, typer.Option("--version-compatible", help="TensorRT: later versions open it with this one's lean runtime.")
]
HardwareOpt = Annotated[
    bool, typer.Option("--hardware-compatible", help="TensorRT: every GPU from Ampere on may open it.")
]
OutputFile = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]
OneTarget = Annotated[str, typer.Option(help="onnxruntime, openvino, tensorrt or tensorrt-rtx.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from radixrt import __version__

        out.print(__version__)
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


def say(text: str | Text) -> None:
    """Prints a line; a path in it is never broken in two."""
    out.print(text, soft_wrap=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file that the user named.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder that is writable") from error


def make_room(path: Path | None) -> None:
    """Makes the folder of a file that is written at the end, so that minutes of work do not end at a closed door.

    Raises:
        InputError: there can be no such file.
    """
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder that is writable") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: name a file in a folder that is writable")


def stages() -> Stages:
    """A progress display on standard error."""
    from radixrt.progress import Stages

    return Stages(err)
