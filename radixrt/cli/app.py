"""What the commands share: the application, the consoles, and what is written where the user said."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from radixrt.cli.answer import Answer
from radixrt.errors import RadixRTError

if TYPE_CHECKING:
    from radixrt.progress import Stages

# A command's module is imported when the command is called, so that the list of commands is there at once.
COMMANDS = {
    "engine": "Compile a network into an engine, hold it against the original, and leave a bundle with its report.",
    "sweep": "Compile every combination of a recipe's lists, side by side, and leave a page that compares them.",
    "choose": "Find in a sweep the network, precision and target that are best under limits, and why no other is.",
    "recipe": "Write a recipe for a network: a file that `radixrt engine` and `radixrt sweep` take.",
    "models": "List the networks that have a name, or count their attention blocks.",
    "targets": "Tell for each target whether it builds and runs here, or why not and how to install it.",
    "run": "Run images through a bundle's engine, and say what the network answers.",
    "validate": "Hold an engine against the original network, and write the report.",
    "compare": "Put several bundles on one page, with the Pareto front of accuracy against latency.",
    "inspect": "Look into an engine: layers with precision, torch module, and time; compiled kernels where it cannot "
    "run here.",
    "bundle": "Sign a bundle, write it into a Triton model repository, or have Polygraphy compare it.",
    "device": "Tell whether a device answers, what it can build and run, and what it lacks: radixrt device check NAME.",
    "cache": "Show what earlier runs left to be taken again, or remove it: results of stages, and what libraries "
    "compiled.",
    "sensitivity": "Measure what INT8 costs and saves in each layer: the logits' SQNR with that layer alone in INT8, "
    "and its time.",
    "export": "Capture a network as a simplified ONNX graph, held against PyTorch on real images.",
    "rewrite": "Rewrite any ONNX file: attention into its canonical form, grouped convolutions into the form that runs "
    "best.",
    "calibrate": "Choose a range for each tensor of a graph from images, and write the calibration table.",
    "quantize": "Give a graph the types of a precision: INT8 as Q/DQ pairs with ranges from a table, FP16 as tensor "
    "types.",
    "build": "Build an engine from a deploy graph, without a bundle around it.",
}
MODULES = {
    "radixrt.cli.recipe": ("recipe",),
    "radixrt.cli.fleet": ("sweep", "choose"),
    "radixrt.cli.engine": ("engine", "models", "targets"),
    "radixrt.cli.bundle": ("run", "validate", "compare", "inspect", "bundle", "cache"),
    "radixrt.cli.device": ("device",),
    "radixrt.cli.sensitivity": ("sensitivity",),
    "radixrt.cli.steps": ("export", "rewrite", "calibrate", "quantize", "build"),
}


def _version() -> str:
    from radixrt import __version__

    return __version__


# A pipe has no width: tables get one that cuts no name. Nothing in brackets is markup: paths and layers have them too.
out = Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False)
app = App(
    name="radixrt",
    help="Compile channel-attention CNNs into FP32, FP16 and INT8 engines, and prove them against the original.",
    help_format="plaintext",
    version=_version,
    version_flags=["--version"],
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # main says what became of the work
)
for _module, _names in MODULES.items():
    for _name in _names:
        app.command(f"{_module}:{_name}", name=_name, help=COMMANDS[_name], sort_key=[*COMMANDS].index(_name))
app.register_install_completion_command()


def typed() -> str:
    """The command as it was typed, for the report."""
    return shlex.join(["radixrt", *sys.argv[1:]])


def say(text: str | Text) -> None:
    """Prints a line; a path in it is never broken in two."""
    out.print(text, soft_wrap=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file that the user named.

    Raises:
        InputError: it cannot be written.
    """
    from radixrt.files import replace_file

    replace_file(path, text.encode())


def stages() -> Stages:
    """A progress display on standard error, unless the user wants it quiet."""
    from radixrt.progress import Stages

    return Stages(None if Answer.of_this_run().quiet else err)


def fail(error: RadixRTError) -> tuple[int, str]:
    """Says an error; returns its exit code and its sentence."""
    err.print(f"[red]{'Failed' if error.exit_code == 3 else 'Error'}:[/red] ", end="")
    err.print(str(error), markup=False, soft_wrap=True)
    return error.exit_code, str(error)
