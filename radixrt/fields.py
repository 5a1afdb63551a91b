"""What options objects have in common: their fields are filled, checked, explained, and made a function's keywords."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError
from typing_extensions import Doc

from radixrt.errors import InputError

O = TypeVar("O")  # noqa: E741  # an options object


def part(options: object, cls: type[O], **more: Any) -> O:
    """The fields of one subject as an object of its own; ``more`` gives what ``options`` does not have."""
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: getattr(options, name) for name in names if hasattr(options, name)} | more)


def fill(cls: type[O], given: Mapping[str, Any], spell: Callable[[str], str] = str) -> O:
    """Makes an options object of what was given, and checks it.

    Args:
        cls: its class.
        given: values by field; what is absent has its default.
        spell: how the user writes a field's name.

    Raises:
        InputError: a name is unknown (the nearest is offered), a value is missing, or one is not of its kind.
    """
    try:
        return TypeAdapter(cls).validate_python(dict(given))
    except ValidationError as error:
        # A name that is not known may be why another is missing.
        unknown = "unexpected_keyword_argument"
        first = max(error.errors(include_url=False), key=lambda one: (one["type"] == unknown, len(one["loc"])))
        name = str(first["loc"][0])
        if first["type"] == unknown:
            raise InputError(f"unknown option {spell(name)}{nearest(name, cls, spell)}") from error
        if first["type"].startswith("missing"):
            raise InputError(f"{spell(name)} is missing") from error
        said = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{spell(name)} is {first['input']!r}: {said.replace('input should', 'it must')}") from error


def subjects_of(cls: type) -> dict[str, tuple[str, ...]]:
    """The names of a class's fields under the title of each subject, its own first."""
    inherited = {base: tuple(field.name for field in fields(base)) for base in cls.__bases__ if base is not object}
    theirs = {name for names in inherited.values() for name in names}
    own = tuple(field.name for field in fields(cls) if field.name not in theirs)
    return {(subject.__doc__ or "").split(".")[0]: names for subject, names in ({cls: own} | inherited).items()}


def help_of(cls: type, name: str) -> str:
    """What a field's help says."""
    return next(mark.documentation for mark in hints_of(cls)[name].__metadata__ if isinstance(mark, Doc))


@functools.cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of an options object's fields, with their bounds and help."""
    return get_type_hints(cls, include_extras=True)


def nearest(name: str, among: type | Sequence[str], spell: Callable[[str], str] = str) -> str:
    """What else a name could have meant among those, or among an options object's, as the rest of a sentence."""
    known = [field.name for field in fields(among)] if isinstance(among, type) else among
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f": did you mean {' or '.join(map(spell, near))}?" if near else f"; known are {', '.join(map(spell, known))}"


def as_path(path: Path | str | None) -> Path | None:
    """A path that a user wrote as text."""
    return None if path is None else Path(path)


def words(text: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """What a user wrote one by one, or with commas between: ``"a,b"`` and ``["a", "b"]`` are the same."""
    several = (text,) if isinstance(text, (str, Path)) else text
    return tuple(word.strip() for one in several for word in str(one).split(",") if word.strip())
