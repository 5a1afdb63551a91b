"""``radixrt recipe``: a recipe to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from radixrt.cli.app import say
from radixrt.options import DEFAULT_MODEL, MODEL_HELP
from radixrt.recipe import RECIPE_NAME


def recipe(
    action: Annotated[Literal["init"], Parameter(help="init writes a recipe with every option and its help.")],
    model: Annotated[str, Parameter(help=MODEL_HELP)] = DEFAULT_MODEL,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="The file to write.")] = Path(RECIPE_NAME),
) -> None:
    """Runs ``radixrt recipe``."""
    from radixrt.errors import InputError
    from radixrt.export.source.names import resolve
    from radixrt.files import make_room, replace_file
    from radixrt.recipe import template

    resolve(model)
    make_room(output)
    if output.exists():
        raise InputError(f"{output} exists, and somebody may have worked on it: name another file with --output")
    replace_file(output, template(model).encode())
    say(f"{output}: `radixrt engine {output}` compiles {model}")
