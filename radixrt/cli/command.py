"""A command derived from an options object: its options, their help and panels, and the object that it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from cyclopts import Group, Parameter, Token

from radixrt.fields import help_of, hints_of, subjects_of
from radixrt.options import ShowOptions
from radixrt.recipe import filled

O = TypeVar("O")  # noqa: E741  # an options object

Switch = Annotated[bool, Parameter(show_default=False)]
# Files for which - is standard output.
MAY_BE_STDOUT = {"json"}
SHORT = {"model": "-m", "precision": "-p", "output": "-o"}


def flag(name: str) -> str:
    """How an option is written on the command line."""
    return f"--{name.replace('_', '-')}"


def whole(_: type, tokens: Sequence[Token]) -> int:
    """Reads a whole number, and rounds nothing to one."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number") from None


def _no_option(_: type, value: Path | None) -> None:
    """Refuses an option where a file was to be named."""
    if str(value).startswith("--"):
        raise ValueError(f"{value} is no file: name one, or - for standard output")


def command(options: type[O]) -> Callable[[Callable[[O], None]], Callable[..., None]]:
    """Makes a command of a function that takes an options object."""

    def derive(body: Callable[[O], None]) -> Callable[..., None]:
        parameters = list(_parameters(options))
        signature = inspect.Signature(parameters)

        def run(*args: Any, **given: Any) -> None:
            typed = signature.bind_partial(*args).arguments | given
            body(filled(options, {name: value for name, value in typed.items() if value is not None}, spell=flag))

        run.__name__, run.__doc__, run.__module__ = body.__name__, body.__doc__, body.__module__
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = signature  # type: ignore[attr-defined]
        return run

    return derive


def _parameters(options: type) -> Sequence[inspect.Parameter]:
    # The command line always shows its progress.
    hidden = {field.name for field in fields(ShowOptions)}
    found = [
        _parameter(options, name, panel)
        for title, names in subjects_of(options).items()
        if (panel := Group.create_ordered(title))
        for name in names
        if name not in hidden
    ]
    # What is given by position comes first, and what must be given before what need not be.
    return sorted(found, key=lambda one: (one.kind, one.kind is not one.KEYWORD_ONLY and one.default is not one.empty))


def _parameter(options: type, name: str, panel: Group) -> inspect.Parameter:
    own = inspect.signature(options).parameters[name]
    kind, default = own.kind, own.default
    if kind is not own.KEYWORD_ONLY and default is own.empty:
        kind = own.POSITIONAL_ONLY
    names = (flag(name), SHORT[name]) if name in SHORT else (flag(name),)
    read = _typed(hints_of(options)[name])
    told = Parameter(
        name=None if kind is own.POSITIONAL_ONLY else names,
        help=help_of(options, name),
        group=panel,
        negative=flag(f"no_{name}") if default is True else (),
        show_choices=False,
        show_default=not (default is None or default == () or isinstance(default, bool)),
        converter=whole if read is int else None,
        allow_leading_hyphen=name in MAY_BE_STDOUT,
        validator=_no_option if name in MAY_BE_STDOUT else None,
    )
    if default is None or default == ():
        default, read = None, read | None
    elif default is not own.empty:
        default = [default] if read == list[str] else read(default)
    return inspect.Parameter(name, kind, default=default, annotation=Annotated[read, told])


def _typed(hint: Any) -> Any:
    """The type that the text of an option is read as; what it means is for the options object to say."""
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    members = [member for member in get_args(hint) if member is not NoneType] or [hint]
    for member in members:
        if get_origin(member) is Sequence and not set(get_args(member)) & {int, float}:
            return list[str]
    first = members[0]
    return first if first in (bool, int, float, Path) or issubclass(first, Enum) else str
