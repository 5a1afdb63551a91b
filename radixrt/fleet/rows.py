"""The rows of a sweep: every combination of a recipe's lists, each a build of its own with a name."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from radixrt import __version__
from radixrt.calibration.spec import Method
from radixrt.engines.registry import FASTEST, auto_targets, get
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Precision
from radixrt.fields import fill, nearest, words
from radixrt.fleet.inputs import Input, inputs_of
from radixrt.fleet.options import SWEPT, SweepOptions
from radixrt.options import AUTO, CompileOptions
from radixrt.recipe import to_toml
from radixrt.remote.device import Device
from radixrt.request import EngineRequest, devices_of

PATIENCE_S = 7 * 86400.0
READERS: dict[str, Callable[[str], object]] = {
    "precision": Precision.parse,
    "target": get,
    "method": Method.parse,
    "batch": BatchSpec.parse,
}
"""What refuses an unknown value."""
HERE = ""
"""The device of a row that runs on whatever machine builds it."""


@dataclass(frozen=True)
class Row:
    """One combination.

    Attributes:
        name: its folder's.
        options: the build.
        device: what it is measured on; empty for the machine that builds it.
        inputs: the files and folders that it reads.
        key: a hash of all that decides it, by which a finished row is found again.
    """

    name: str
    options: CompileOptions
    device: str
    inputs: tuple[Input, ...]
    key: str

    @property
    def target(self) -> str:
        """The one target."""
        return str(self.options.target)

    @property
    def facts(self) -> dict[str, str]:
        """What tells it from the others, as ``exclude`` and ``sweep.json`` say it."""
        options = self.options
        precision, method = (str(getattr(v, "value", v)) for v in (options.precision, options.method))
        return {
            "model": str(options.model),
            "precision": precision,
            "target": self.target,
            "method": method if precision == "int8" else "",
            "batch": str(options.batch),
            "device": self.device,
        }


def rows_of(options: SweepOptions) -> tuple[Row, ...]:
    """Every combination that is not excluded, network by network.

    Raises:
        InputError: a value cannot be used, a file is not there, or two rows would have one name.
    """
    single = {field.name: getattr(options, field.name) for field in fields(CompileOptions)}
    for name in ("output", "junit", "json"):
        single[name] = None
    targets = _targets(words(options.target))
    lists = {"precision": words(options.precision), "method": words(options.method), "batch": _words(options.batch)}
    devices = devices_of(options.on)
    models = [_named(one) for one in _several(options.model)]
    excluded = [_exclusion(one, models) for one in _several(options.exclude)]
    found: dict[str, Row] = {}
    hashed: dict[str, Input] = {}
    for title, own in models:
        for precision, target, method, batch in itertools.product(
            lists["precision"], targets, lists["method"], lists["batch"]
        ):
            if precision != "int8" and method != lists["method"][0]:
                continue  # no other precision has ranges to choose
            given = single | {"precision": precision, "target": target, "method": method, "batch": batch} | own
            for device in _places(devices, target):
                told = {name: {str(given[name])} for name in SWEPT} | {"device": {device.name if device else HERE}}
                told["model"] |= {title} if title else set()
                if any(all(told[name] & values for name, values in one.items()) for one in excluded):
                    continue
                row = _row(given, device, title, lists, hashed)
                if row.name in found:
                    raise InputError(
                        f"two rows would be called {row.name}: give their models a name of their own, "
                        '{ model = "...", name = "..." }'
                    )
                found[row.name] = row
    if not found:
        raise InputError("every combination is excluded: nothing is left to build")
    return tuple(found.values())


def _named(model: str | Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The name that a network was given, where it was, and its own options."""
    own = dict(model) if isinstance(model, Mapping) else {"model": model}
    if "model" not in own:
        raise InputError(f"one of the networks has no model beside {', '.join(own)}: say which it is, model = ...")
    return own.pop("name", None), own


def _several(value: str | Path | Sequence[str | Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
    return [str(value)] if isinstance(value, (str, Path)) else list(value)


def _words(value: Any) -> tuple[str, ...]:
    return words([str(one) for one in value]) if isinstance(value, (list, tuple)) else words(str(value))


def _targets(names: Sequence[str]) -> tuple[str, ...]:
    if FASTEST in names:
        raise InputError(f"{FASTEST} is a race of its own: name the targets, and `radixrt choose` finds the fastest")
    found = [target.name for name in names for target in (auto_targets() if name == "auto" else (get(name),))]
    return tuple(dict.fromkeys(found))


def _places(devices: Sequence[Device], target: str) -> list[Device | None]:
    """Where a target's engines are measured: on the devices that take it, or here where none does."""
    return [device for device in devices if device.takes(target)] or [None]


def _row(
    given: Mapping[str, Any],
    device: Device | None,
    title: str | None,
    lists: Mapping[str, Sequence[str]],
    hashed: dict[str, Input],
) -> Row:
    # Rows of one device queue for it: it measures one at a time.
    on = () if device is None else _patient(device)
    options = fill(CompileOptions, {**given, "on": on})
    if options.precision == AUTO:
        raise InputError(f"precision {AUTO} is a race of its own: name the precisions, and `radixrt choose` finds one")
    request = EngineRequest.of(options)
    parts = [title or request.model.slug, request.precision.value, str(options.target)]
    parts += [request.calibration.method.value] * (len(lists["method"]) > 1 and request.precision.value == "int8")
    parts += [f"batch{_spelt(request.batch)}"] * (len(lists["batch"]) > 1)
    parts += [device.name] if device else []
    name = "-".join(parts)
    try:
        # What no machine could build is known before anything starts.
        get(str(options.target)).check_options(request.build)
    except InputError as error:
        raise InputError(f"{name} cannot be: {error}; leave the combination out with exclude") from error
    inputs = inputs_of(options, hashed)
    told = f"{to_toml(options)}{__version__}{''.join(one.sha256 for one in inputs)}"
    return Row(name, options, device.name if device else HERE, inputs, hashlib.sha256(told.encode()).hexdigest())


def _patient(device: Device) -> Device:
    """The device as a row of several names it, from whatever folder."""
    config = device.ssh_config and device.ssh_config.expanduser().absolute()
    return replace(device, wait_s=max(device.wait_s, PATIENCE_S), ssh_config=config)


def _spelt(batch: BatchSpec) -> str:
    return str(batch.min) if batch.min == batch.max else f"{batch.min}to{batch.max}"


def _exclusion(
    given: str | Mapping[str, Any], models: Sequence[tuple[str | None, Mapping[str, Any]]]
) -> dict[str, set[str]]:
    """What a combination must have to be left out.

    Raises:
        InputError: a name or a value is unknown, so that nothing would be left out.
    """
    known = (*SWEPT, "device")
    pairs = (
        dict(given)
        if isinstance(given, Mapping)
        else dict(one.partition("=")[::2] for one in given.split(",") if one.strip())
    )
    for name in pairs:
        if name.strip() not in known:
            raise InputError(f"exclude has no {name.strip()}{nearest(name.strip(), known)}")
    found = {name.strip(): set(_words(value)) for name, value in pairs.items()}
    named = {str(one) for title, own in models for one in (title, own["model"]) if one is not None}
    for model in found.get("model", set()) - named:
        raise InputError(
            f"exclude names the model {model}, and the sweep has none of that name{nearest(model, [*named])}"
        )
    for name, parse in READERS.items():
        for value in found.get(name, ()):
            parse(value)
    return found
