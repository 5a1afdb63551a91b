"""A recipe: a TOML or JSON file that says what the command line says, in the same words.

Options stand by their names, and those of a subject may stand in its table (``[preprocess]``, ``[gates]``, ``[plan]``,
``[timing]``). What a recipe reads is found from the recipe's own folder; what is written goes where the command is
called. What is given beside a recipe stands over it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from importlib import import_module
from pathlib import Path
from sys import version_info
from typing import Any, get_args

from pydantic import TypeAdapter

from radixrt.engines.base import PlanOptions
from radixrt.engines.bundle.pins import PinOptions
from radixrt.errors import InputError
from radixrt.fields import O, fill, help_of, hints_of, nearest, words
from radixrt.options import CompileOptions, PreprocessOptions, TimingOptions
from radixrt.remote.device import Device, devices_in
from radixrt.validate.gates import GateLimits

# Python 3.10 has the same module under its older name.
tomllib = import_module("tomllib" if version_info >= (3, 11) else "tomli")

RECIPE_NAME = "recipe.toml"
"""The recipe that every bundle carries."""

SUFFIXES = (".toml", ".json")

# The tables of a recipe: a subject's fields may stand under its name.
TABLES: dict[str, type] = {
    "preprocess": PreprocessOptions,
    "gates": GateLimits,
    "plan": PlanOptions,
    "timing": TimingOptions,
}
READ = ("checkpoint", "data", "preprocess", "gates", "against", "sign_key", "characters")
"""Options that name something to be read."""
CODE = ("model", "metric", "decode")
"""Options that may name code, ``file.py:function``, which is read too."""
WRITTEN = ("output", "junit", "json")
"""Options that name something to be written."""
NOT_PATHS = ("elpv", "compile")
"""Values of options of files that are names."""

# What a hash vouches for: given beside a recipe, it is another thing than the recipe's hash was taken of.
PINNED = {
    "model_sha256": ("model", "checkpoint", "num_classes", "seed"),
    "data_sha256": ("data", "calibration_images"),
}
# What says how a build is followed, and not what it makes.
PASSING = (*WRITTEN, "sign_key", "fresh", "progress", "quiet")


def is_recipe(model: object) -> bool:
    """Whether what was given for a network is the path of a recipe."""
    return isinstance(model, (str, Path)) and Path(model).suffix.lower() in SUFFIXES


def filled(cls: type[O], given: Mapping[str, Any], spell: Callable[[str], str] = str) -> O:
    """Makes an options object as :func:`radixrt.options.fill` does; ``model`` may name a recipe, which is read first.

    Raises:
        InputError: as ``fill`` and :func:`from_file` say.
    """
    model = given.get("model")
    if isinstance(model, list) and len(model) == 1:
        model = model[0]
    if not is_recipe(model):
        return fill(cls, given, spell)
    assert isinstance(model, (str, Path))
    over = fill(cls, rest := {name: value for name, value in given.items() if name != "model"}, spell)
    return from_file(cls, Path(model), **{name: getattr(over, name) for name in rest})


def from_file(cls: type[O], path: Path, **over: Any) -> O:
    """Fills an options object from a recipe; what is given beside the file stands over it.

    Each ``[device.NAME]`` is a device that measures, unless ``on`` names some of them.

    Raises:
        InputError: the file cannot be read, is neither TOML nor JSON, or holds an unknown key or a value that is not of
            its kind.
    """
    content = read(path)
    given = options_in(cls, content, path)
    if "on" in over:
        over["on"] = _named(over["on"], devices_in(content.get("device", {}), path))
    for pin, subjects in PINNED.items():
        if any(name in over for name in subjects):
            given.pop(pin, None)
    try:
        return fill(cls, given | over)
    except InputError as error:
        raise InputError(f"{path}: {error}{_of_a_sweep(cls, given)}") from error


def _of_a_sweep(cls: type, given: Mapping[str, Any]) -> str:
    several = [name for name in ("model", "precision", "method", "batch") if isinstance(given.get(name), list)]
    return f"; lists of {' and '.join(several)} are for `radixrt sweep`" if several and cls is CompileOptions else ""


def read(path: Path) -> dict[str, Any]:
    """What a recipe's file holds.

    Raises:
        InputError: it cannot be read, or is neither TOML nor JSON.
    """
    kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}; `radixrt recipe` writes one") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a {kind} file: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no recipe: it must be a table of options")
    return content


def options_in(cls: type, content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The options of a recipe by name, with its tables opened, and paths that are read found from its folder.

    Raises:
        InputError: a table, or a key in one, is unknown.
    """
    names = {field.name for field in fields(cls)}
    given: dict[str, Any] = {}
    devices = devices_in(content.get("device", {}), path) if "on" in names else {}
    if devices:
        given["on"] = tuple(devices.values())
    for key, value in content.items():
        if key == "device" and "on" in names:
            continue
        if key == "on":
            given[key] = _named(value, devices)
            continue
        if not isinstance(value, dict) or key in ("model", "exclude"):
            # Networks with options of their own, and what is left out, are lists, also where there is only one.
            given[key] = [value] if isinstance(value, dict) else value
            continue
        if key not in TABLES or not issubclass(cls, TABLES[key]):
            raise InputError(f"{path}: unknown table [{key}]{nearest(key, list(TABLES), '[{}]'.format)}")
        for name in value:
            if name not in {field.name for field in fields(TABLES[key])}:
                raise InputError(f"{path}: unknown key {name} in [{key}]{nearest(name, TABLES[key])}")
        given |= value
    if isinstance(models := given.get("model"), list):
        # One of several networks may be a table of its own options.
        given["model"] = [options_in(cls, one, path) if isinstance(one, dict) else one for one in models]
    found = {name: anchored(name, value, path.parent) for name, value in given.items()}
    if isinstance(excluded := given.get("exclude"), list):
        found["exclude"] = [
            {name: anchored(name, value, path.parent) for name, value in one.items()} if isinstance(one, dict) else one
            for one in excluded
        ]
    return found


def _named(given: Any, devices: Mapping[str, Device]) -> Any:
    """The devices of a recipe by their names; what names none of them is an address."""
    several = words(given) if isinstance(given, str) else given
    return [devices.get(one, one) if isinstance(one, str) else one for one in several] if devices else given


@dataclass(frozen=True)
class Named:
    """The file or folder that a value of an option names, None where it names none, and the text around it."""

    path: Path | None = None
    before: str = ""
    behind: str = ""

    def at(self, place: Path) -> str:
        """The value that names the same thing at another place."""
        return f"{self.before}{place}{self.behind}"


def named(option: str, value: object, folder: Path) -> Named:
    """What a value of an option names on the disk.

    Args:
        option: its name.
        value: one value of it.
        folder: where a relative path starts.
    """
    if not isinstance(value, (str, Path)) or str(value) in ("", *NOT_PATHS):
        return Named()
    text = str(value)
    # A minus says that less of a metric is better.
    sign = "-" if option == "metric" and text.startswith("-") else ""
    code, colon, function = text.removeprefix(sign).partition(".py:")
    if option in (*CODE, "data") and colon and Path(code).name:
        return Named(folder / Path(f"{code}.py").expanduser(), sign, f":{function}")
    path = folder / Path(text).expanduser()
    of_a_module = option == "data" and ":" in text and not path.exists()
    is_path = (option in READ and not of_a_module) or (option == "model" and text.lower().endswith(".onnx"))
    return Named(path if is_path else None)


def anchored(name: str, value: Any, folder: Path) -> Any:
    """A value of an option, in which paths that are read start in a folder."""

    def anchor(one: Any) -> Any:
        found = named(name, one, folder)
        return one if found.path is None else found.at(found.path)

    if name == "against" and isinstance(value, str):
        value = [*words(value)]
    return [anchor(one) for one in value] if isinstance(value, list) else anchor(value)


def to_toml(options: CompileOptions, **over: Any) -> str:
    """The recipe that says what made a bundle, with every option that has a value, and paths from the root.

    Args:
        options: what was asked for.
        over: what stands in the place of some of it.
    """
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    if not isinstance(options.model, (str, Path)):
        values["model"] = type(options.model).__name__  # in memory: no recipe can name it, so nothing is found there
    if options.data is not None and not isinstance(options.data, (str, Path)):
        values["data"] = type(options.data).__name__  # the same
    limits = options.limits()
    values |= {field.name: getattr(limits, field.name) for field in fields(GateLimits)} | {"gates": None}
    devices = (options.on,) if isinstance(options.on, (str, Device)) else options.on
    values |= {"on": [one.name if isinstance(one, Device) else one for one in devices if one]}
    values |= over
    here = Path.cwd()
    lines = ["# `radixrt engine` with this file makes this bundle again."]
    tables = _tables()
    if values["preprocess"] is not None:  # a file that is named has the name of the table
        tables[""] += tables.pop("preprocess")
    for table, names in tables.items():
        told = [
            f"{name} = {_toml(anchored(name, _plain(values[name]), here))}"
            for name in names
            if name not in PASSING and values[name] not in (None, (), "", [])
        ]
        lines += ["", f"[{table}]"] * bool(table and told) + told
    for device in devices:
        if isinstance(device, Device):
            said = {name: _plain(value) for name, value in vars(device).items() if name != "name"}
            lines += ["", f"[device.{_toml(device.name)}]"]
            lines += [f"{name} = {_toml(value)}" for name, value in said.items() if value not in (None, [])]
    return "\n".join(lines) + "\n"


def template(model: str) -> str:
    """A recipe for a network in which every option stands with its help; those without a default are commented out."""
    lines = [
        "# radixrt engine recipe.toml       compiles it; what the command line says stands over this file.",
        "# radixrt sweep recipe.toml        with lists (precision, target, ...) in it: every combination.",
        "# Paths that are read start in this file's folder.",
    ]
    for table, names in _tables().items():
        lines += ["", f"[{table}]"] if table else [""]
        for name in names:
            if name in ("progress", "quiet", "json", *TABLES, *PINNED):
                continue
            default = {field.name: field.default for field in fields(CompileOptions)}[name]
            value = model if name == "model" else _plain(default)
            unset = value in (None, ()) or default is MISSING
            lines.append(f"# {help_of(CompileOptions, name)}")
            lines.append(f"# {name} = {_example(name)}" if unset else f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def schema(cls: type, several: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON schema of a recipe for an options object, as published in ``docs/recipe.schema.json``.

    Args:
        cls: the options object.
        several: options that may be lists of what one of them may be.
    """
    whole = TypeAdapter(cls).json_schema()
    found: dict[str, Any] = {}
    for field in fields(cls):
        own = whole["properties"][field.name]
        own.pop("title", None)
        found[field.name] = {**own, "description": help_of(cls, field.name)}
    for name in ("model", "data"):  # in Python these may be objects
        if name in found:
            found[name] = {"type": "string", "description": help_of(cls, name)}
    for name in several:
        said = found[name].pop("description")
        found[name] = {"anyOf": [found[name], {"type": "array", "items": found[name]}], "description": said}
    for table, subject in TABLES.items():
        inner = {field.name: found[field.name] for field in fields(subject)}
        opened = {"type": "object", "properties": inner, "additionalProperties": False}
        file = found.get(table)
        found[table] = {"anyOf": [file, opened], "description": file["description"]} if file else opened
    if "on" in found:
        device = whole["$defs"]["Device"]
        found["device"] = {"type": "object", "additionalProperties": {**device, "required": ["ssh"]}}
    if "model" in several:
        found["model"] = _networks(cls, found)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "RadixRT recipe",
        "type": "object",
        "properties": found,
        "additionalProperties": False,
        "$defs": whole.get("$defs", {}),
    }


def _networks(cls: type, properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a sweep's networks, of which each may be a table with a name and options of its own."""
    whole = {field.name for field in fields(cls)} - {field.name for field in fields(CompileOptions)}
    own = {name: {"$ref": f"#/properties/{name}"} for name in properties.keys() - whole - {"on", "device", *WRITTEN}}
    text = {"type": "string"}
    table = {
        "type": "object",
        "properties": dict(sorted(own.items())) | {"model": text, "name": text},
        "required": ["model"],
        "additionalProperties": False,
    }
    return {
        "anyOf": [text, table, {"type": "array", "items": {"anyOf": [text, table]}}],
        "description": properties["model"]["description"],
    }


def _tables() -> dict[str, tuple[str, ...]]:
    """The options of a build under their tables, as a recipe is written; what has no table comes first."""
    inside = {
        table: tuple(field.name for field in fields(subject) if field.name not in ("data", "preprocess"))
        for table, subject in TABLES.items()
    }
    taken = {name for names in inside.values() for name in names}
    first = ("model", "precision", "target", "data")
    rest = [field.name for field in fields(CompileOptions) if field.name not in (*taken, *first)]
    pins = [field.name for field in fields(PinOptions)]
    return {"": (*first, *(name for name in rest if name not in pins), *pins), **inside}


def _plain(value: Any) -> Any:
    """A value as TOML and JSON have it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return [_plain(one) for one in value] if isinstance(value, (tuple, list)) else value


def _toml(value: Any) -> str:
    # What JSON writes of text, numbers, booleans and lists is TOML too, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _example(name: str) -> str:
    """An empty value of an option's type, for whoever takes the comment away."""
    kinds = [kind for kind in _kinds(hints_of(CompileOptions)[name]) if kind is not type(None)]
    return {int: "0", float: "0.0", bool: "false"}.get(kinds[0], '""')


def _kinds(hint: Any) -> Iterator[Any]:
    inside = get_args(hint)
    if not inside:
        yield hint
    elif isinstance(hint, type(hint)) and hasattr(hint, "__metadata__"):
        yield from _kinds(inside[0])
    else:
        for one in inside:
            yield from _kinds(one)
