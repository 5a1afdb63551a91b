"""A recipe: a TOML file that says what the command line says, in the same words."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pathlib import Path
from sys import version_info
from typing import Any

from radixrt.engines.base import PlanOptions
from radixrt.errors import InputError
from radixrt.fields import O, fill, nearest
from radixrt.options import PreprocessOptions, TimingOptions
from radixrt.validate.gates import GateLimits

# Python 3.10 has the same module under its older name.
tomllib = import_module("tomllib" if version_info >= (3, 11) else "tomli")

# The tables of a recipe: a subject's fields may stand under its name.
TABLES: dict[str, type] = {
    "preprocess": PreprocessOptions,
    "gates": GateLimits,
    "plan": PlanOptions,
    "timing": TimingOptions,
}


def from_toml(cls: type[O], path: Path, **over: Any) -> O:
    """Fills an options object from a TOML file; what is given beside the file stands over it.

    Raises:
        InputError: the file cannot be read, is not TOML, or holds an unknown key or a value that is not of its kind.
    """
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a TOML file: {error}") from error
    given: dict[str, Any] = {}
    for key, value in loaded.items():
        if not isinstance(value, dict):
            given[key] = value
            continue
        if key not in TABLES or not issubclass(cls, TABLES[key]):
            raise InputError(f"{path}: unknown table [{key}]; a recipe has [{'], ['.join(TABLES)}]")
        for name in value:
            if name not in {field.name for field in fields(TABLES[key])}:
                raise InputError(f"{path}: unknown key {name} in [{key}]{nearest(name, TABLES[key])}")
        given |= value
    try:
        return fill(cls, given | over)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
