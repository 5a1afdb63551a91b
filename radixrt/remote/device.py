"""A device: another machine that builds and measures a bundle's engine, and how it is reached.

OpenSSH does the reaching, with the user's own ssh_config, keys, agent and jump hosts: what ``ssh NAME`` reaches, this
does.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from typing_extensions import Doc

from radixrt.errors import InputError
from radixrt.fields import fill

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Device:
    """Another machine, as a recipe's ``[device.NAME]`` says it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: Annotated[str, Doc("What reports and folders call it.")]
    ssh: Annotated[str, Doc("Where OpenSSH finds it: user@host, or a Host of ssh_config.")]
    target: Annotated[tuple[str, ...] | str, Doc("The targets that it takes. Default: all that are built.")] = ()
    python: Annotated[str, Doc("Its Python, which has numpy and the engine's runtime.")] = "python3"
    folder: Annotated[str, Doc("Where it works; relative to the home there.")] = ".cache/radixrt/device"
    ssh_config: Annotated[Path | None, Doc("An ssh_config in the place of the user's own.")] = None
    wait_s: Annotated[float, Field(ge=0), Doc("Seconds to wait for another build that holds it.")] = 0.0
    build_s: Annotated[float, Field(gt=0), Doc("Seconds that one build or one run may take there.")] = 3600.0

    @classmethod
    def of(cls, address: str) -> Device:
        """The device at an address that ``--on`` names, such as ``jetson@orin-3``.

        Raises:
            ValueError: it is no address.
        """
        user, _, host = address.rpartition("@")
        if not _NAME.fullmatch(host) or (user and not _NAME.fullmatch(user)):
            raise ValueError(f"{address!r} is no device: give user@host, or a Host of ssh_config")
        return cls(name=host, ssh=address)

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it takes; all where there are none."""
        return (self.target,) if isinstance(self.target, str) else self.target

    def takes(self, target: str) -> bool:
        """Whether it is to measure engines of a target."""
        return not self.targets or target in self.targets


def devices_in(tables: Any, recipe: Path) -> dict[str, Device]:
    """The devices of a recipe's ``[device.NAME]`` tables, by name.

    Args:
        tables: what the recipe holds under ``device``.
        recipe: its file, in whose folder an ssh_config is looked for.

    Raises:
        InputError: a table says no device, or one wrongly.
    """
    if not isinstance(tables, dict) or not all(isinstance(fields, dict) for fields in tables.values()):
        raise InputError(f"{recipe}: a device is a table with a name, such as [device.orin]")
    found = {}
    for name, given in tables.items():
        if not _NAME.fullmatch(name):
            raise InputError(f"{recipe}: no device can be called {name!r}: take letters, digits, and . _ - inside")
        try:
            device = fill(Device, {"name": name, **given})
        except InputError as error:
            raise InputError(f"{recipe}: in [device.{name}]: {error}") from error
        config = device.ssh_config and recipe.parent / device.ssh_config.expanduser()
        found[name] = replace(device, ssh_config=config)
    return found
