"""``radixrt device``: whether a device answers, and what it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.table import Table

from radixrt.cli.app import out, say
from radixrt.cli.command import Switch


def device(
    action: Annotated[Literal["check"], Parameter(help="What is asked: check.")],
    name: Annotated[str, Parameter(help="user@host, a Host of ssh_config, or a [device.NAME] of the recipe.")],
    /,
    *,
    recipe: Annotated[Path | None, Parameter(help="A recipe that says how the device is reached.")] = None,
    clean: Annotated[Switch, Parameter(help="Remove there what earlier builds left that did not end.")] = False,
) -> None:
    """Runs ``radixrt device check``."""
    assert action == "check"
    from radixrt.engines.registry import all_targets
    from radixrt.errors import InputError, UnavailableError
    from radixrt.recipe import read
    from radixrt.remote.device import Device, devices_in
    from radixrt.remote.visit import clean_up, look, refusal

    known = devices_in(read(recipe).get("device", {}), recipe) if recipe else {}
    try:
        found = known.get(name) or Device.of(name)
    except ValueError as error:
        raise InputError(str(error)) from error
    facts = look(found)
    table = Table.grid(padding=(0, 2))
    for title, value in {
        **facts.environment(found),
        "device folder": facts.folder,
        "device disk": f"{facts.free_bytes / 1e9:.1f} GB free",
        "left by earlier builds": ", ".join(facts.kept),
        "busy with": facts.holder,
    }.items():
        if value:
            table.add_row(title, value)
    out.print(table)
    refused = {target.name: refusal(found, facts, target) for target in all_targets()}
    targets = Table("target", "builds and runs there", "why not, and what to do")
    for target, why in refused.items():
        targets.add_row(target, "no" if why else "yes", f"{why.reason}. {why.hint}" if why else "")
    out.print(targets)
    if clean:
        clean_up(found, facts)
        say(f"{found.name}: {facts.folder} is empty")
    if all(refused.values()):
        raise UnavailableError(found.name, "it takes no target", "See the table.")
