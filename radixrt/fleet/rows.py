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
from radixrt.engines.base import BuildOptions
from radixrt.engines.bundle.signing import check_private_key
from radixrt.engines.registry import FASTEST, auto_targets, get
from radixrt.errors import InputError, RadixRTError
from radixrt.export.spec import BatchSpec, Precision
from radixrt.fields import fill, nearest, words
from radixrt.files import sha256_of
from radixrt.fleet.inputs import Input, inputs_of, moved
from radixrt.fleet.options import SWEPT, SweepOptions
from radixrt.options import AUTO, CompileOptions
from radixrt.recipe import WRITTEN, is_recipe, to_toml
from radixrt.remote.device import Device
from radixrt.request import EngineRequest, devices_of

PATIENCE_S = 7 * 86400.0
"""How long a row waits for its device, which other sweeps and builds hold too."""
LONGEST_NAME = 200
"""Bytes of a row's name: a file's name may have 255, and half-written ones are longer."""
SPELT: dict[str, Callable[[str], str]] = {
    "precision": lambda text: Precision.parse(text).value,
    "target": lambda text: get(text).name,
    "method": lambda text: Method.parse(text).value,
    "batch": lambda text: str(BatchSpec.parse(text)),
}
"""How the options that are swept spell a value; each refuses an unknown one."""
HERE = ""
"""The device of a row that runs on whatever machine builds it."""


@dataclass(frozen=True)
class Row:
    """One combination.

    Attributes:
        name: its folder's.
        options: what was asked for.
        build: what a target must be able to give.
        device: what it is measured on; empty for the machine that builds it.
        inputs: the files and folders that it reads.
        key: a hash of all that decides it, by which a finished row is found again.
    """

    name: str
    options: CompileOptions
    build: BuildOptions
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


@dataclass(frozen=True)
class _Network:
    """A network of a sweep.

    Attributes:
        title: the name that it was given, where it was.
        given: its options and those of the sweep that it does not have itself.
        lists: the values of each option that is swept, but for the model.
    """

    title: str | None
    given: Mapping[str, Any]
    lists: Mapping[str, Sequence[str]]

    @property
    def names(self) -> set[str]:
        """What ``exclude`` may call it."""
        return {str(self.given["model"]), *filter(None, [self.title])}


def rows_of(options: SweepOptions) -> tuple[Row, ...]:
    """Every combination that is not excluded, network by network.

    Raises:
        InputError: a value cannot be used, a file is not there, or two rows would have one name.
    """
    devices = devices_of(options.on)
    networks = [_network(one, options) for one in _several("model", options.model)]
    several = _several("exclude", options.exclude) if options.exclude else ()
    excluded = [_exclusion(one, networks, devices) for one in several]
    found: dict[str, Row] = {}
    hashed: dict[str, Input] = {}
    for network in networks:
        for precision, target, method, batch in itertools.product(*network.lists.values()):
            if precision != "int8" and method != network.lists["method"][0]:
                continue  # no other precision has ranges to choose
            swept = {"precision": precision, "target": target, "method": method, "batch": batch}
            for device in _places(devices, target):
                told = {name: {value} for name, value in swept.items()}
                told |= {"model": network.names, "device": {device.name if device else HERE}}
                if any(all(told[name] & values for name, values in one.items()) for one in excluded):
                    continue
                row = _row(network, swept, device, hashed)
                if row.name in found:
                    raise InputError(
                        f"two rows would be called {row.name}: give their models a name of their own, "
                        '{ model = "...", name = "..." }'
                    )
                found[row.name] = row
    if not found:
        raise InputError("every combination is excluded: nothing is left to build")
    if options.address is None:
        for row in found.values():
            if reason := refusal_of(row.target, row.build):
                raise cannot_be(row, reason)
    return tuple(found.values())


def refusal_of(target: str, build: BuildOptions) -> str:
    """Why a target cannot give on this machine what is asked for; empty where it can."""
    try:
        get(target).check_options(build)
    except RadixRTError as error:
        return str(error)
    return ""


def cannot_be(row: Row, reason: str) -> InputError:
    """The sentence on a combination that no machine of the sweep can build."""
    return InputError(f"{row.name} cannot be: {reason}; leave the combination out with exclude")


def _network(model: str | Mapping[str, Any], options: SweepOptions) -> _Network:
    own = dict(model) if isinstance(model, Mapping) else {"model": model}
    if "model" not in own:
        raise InputError(f"one of the networks has no model beside {', '.join(own)}: say which it is, model = ...")
    title, name = own.pop("name", None), own["model"]
    if not isinstance(name, str):
        raise InputError(f"one of the networks is {name!r}: name it by text, as `radixrt engine` takes it")
    if is_recipe(name):
        raise InputError(f"{name} is a recipe beside other networks: sweep it by itself, or name its network here")
    if title is not None and not _names_a_folder(title):
        raise InputError(f"a network cannot be called {title!r}: give it a name that a folder can have, such as theirs")
    for option in own.keys() & {"on", *WRITTEN}:
        raise InputError(f"{option} is of the whole sweep, and {name} has one of its own: leave that out")
    shared = {field.name: getattr(options, field.name) for field in fields(CompileOptions)} | dict.fromkeys(WRITTEN)
    given = shared | own
    lists = {option: _values(option, given[option]) for option in SPELT}
    return _Network(title, given, lists)


def _names_a_folder(title: object) -> bool:
    return isinstance(title, str) and title.isprintable() and "/" not in title and title.strip(" .-") == title != ""


def _several(option: str, value: Any) -> list[Any]:
    found = [*value] if isinstance(value, (list, tuple)) else [value if isinstance(value, Mapping) else str(value)]
    if not found:
        raise InputError(f"{option} is empty: name at least one, or leave it out")
    return found


def _values(option: str, value: Any) -> list[str]:
    """The values of an option that is swept, each once."""
    listed = _listed(value)
    if option == "target" and FASTEST in listed:
        raise InputError(f"{FASTEST} is a race of its own: name the targets, and `radixrt choose` finds the fastest")
    if option == "precision" and AUTO in listed:
        raise InputError(f"precision {AUTO} is a race of its own: name the precisions, and `radixrt choose` finds one")
    if option == "target":
        listed = [name for one in listed for name in ([t.name for t in auto_targets()] if one == AUTO else [one])]
    return _several(option, [*dict.fromkeys(map(SPELT[option], listed))])


def _listed(value: Any) -> list[str]:
    """What was given as a list, as one value, or as text with commas."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [*words([str(getattr(one, "value", one)) for one in several])]


def _places(devices: Sequence[Device], target: str) -> list[Device | None]:
    """Where a target's engines are measured: on the devices that take it, or here where none does."""
    return [device for device in devices if device.takes(target)] or [None]


def _row(network: _Network, swept: Mapping[str, str], device: Device | None, hashed: dict[str, Input]) -> Row:
    # Rows of one device queue for it: it measures one at a time.
    on = () if device is None else _patient(device)
    options = fill(CompileOptions, {**network.given, **swept, "on": on})
    request, lists = EngineRequest.of(options), network.lists
    parts = [network.title or request.model.slug, request.precision.value, str(options.target)]
    parts += [request.calibration.method.value] * (len(lists["method"]) > 1 and request.precision.value == "int8")
    parts += [f"batch{_spelt(request.batch)}"] * (len(lists["batch"]) > 1)
    parts += [device.name] if device else []
    name = "-".join(parts)
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(f"a row would be called {name[:40]}..., too long for a folder: give its model a shorter name")
    inputs = inputs_of(options, hashed)
    return Row(name, options, request.build, device.name if device else HERE, inputs, _key(options, inputs))


def _key(options: CompileOptions, inputs: tuple[Input, ...]) -> str:
    """A hash of all that decides a build: of what it reads the content, wherever that lies."""
    told = to_toml(moved(options, inputs, lambda one: Path("/", one.sha256))) + __version__
    if options.sign_key is not None:
        check_private_key(Path(options.sign_key))
        told += sha256_of(Path(options.sign_key))
    return hashlib.sha256(told.encode()).hexdigest()


def _patient(device: Device) -> Device:
    """The device as a row of several names it, from whatever folder."""
    config = device.ssh_config and device.ssh_config.expanduser().absolute()
    return replace(device, wait_s=max(device.wait_s, PATIENCE_S), ssh_config=config)


def _spelt(batch: BatchSpec) -> str:
    return str(batch.min) if batch.min == batch.max else f"{batch.min}to{batch.max}"


def _exclusion(
    given: str | Mapping[str, Any], networks: Sequence[_Network], devices: Sequence[Device]
) -> dict[str, set[str]]:
    """What a combination must have to be left out.

    Raises:
        InputError: a name or a value is unknown, so that nothing would be left out, or there is none.
    """
    known = (*SWEPT, "device")
    pairs = (
        dict(given)
        if isinstance(given, Mapping)
        else dict(one.partition("=")[::2] for one in given.split(",") if one.strip())
    )
    found = {name.strip(): {*_listed(value)} for name, value in pairs.items()}
    if not found:
        raise InputError("exclude names no combination: say which, as in precision=int8,target=openvino")
    for name, values in found.items():
        if name not in known:
            raise InputError(f"exclude has no {name}{nearest(name, known)}")
        if not values:
            raise InputError(f"exclude gives {name} no value: write {name}=...")
    for name, there in (
        ("model", set().union(*(network.names for network in networks))),
        ("device", {device.name for device in devices}),
    ):
        for value in found.get(name, set()) - there:
            said = nearest(value, sorted(there)) if there else ""
            raise InputError(f"exclude names the {name} {value}, and the sweep has none of that name{said}")
    return {
        name: {SPELT[name](value) for value in values} if name in SPELT else values for name, values in found.items()
    }
