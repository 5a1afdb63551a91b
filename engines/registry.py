"""Every target by name. A target whose library is missing is here too, and says so itself."""

from __future__ import annotations

import difflib
import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from radixrt.errors import InputError

if TYPE_CHECKING:
    from radixrt.engines.base import Target

FASTEST = "fastest"
"""What a user writes in the place of a target for a race of all that run here."""

DEFAULT = "onnxruntime"
"""The target of a command that was told none: the one that runs anywhere."""

# In the order in which they are shown. A module is imported when its target is asked for.
_TARGETS: dict[str, str | type[Target]] = {
    "tensorrt": "radixrt.engines.tensorrt.target:TensorRtTarget",
    "tensorrt-rtx": "radixrt.engines.tensorrt.rtx.target:TensorRtRtxTarget",
    "onnxruntime": "radixrt.engines.cpu.onnxruntime:OnnxRuntimeTarget",
    "openvino": "radixrt.engines.cpu.openvino:OpenVinoTarget",
}


def register(target: type[Target]) -> None:
    """Adds a target of an application's own, under its ``name``; it takes the place of an earlier one of that name."""
    _TARGETS[target.name] = target
    forget()


def import_path(target: Target) -> str:
    """Returns where a target's class stands, as ``module:class``, for a process that has not registered it."""
    return f"{type(target).__module__}:{type(target).__qualname__}"


def load(path: str, cache_dir: Path | None = None) -> Target:
    """Makes a target from what :func:`import_path` returned. It imports the module: never call it on a foreign text."""
    module, _, member = path.partition(":")
    made: type[Target] = getattr(importlib.import_module(module), member)
    return made(cache_dir)


def unregister(name: str) -> None:
    """Takes a target out again."""
    del _TARGETS[name]
    forget()


def forget() -> None:
    """Forgets what was found out about this machine, so that a library installed meanwhile is seen."""
    _made.cache_clear()


def all_targets(cache_dir: Path | None = None) -> tuple[Target, ...]:
    """Returns one object per target, in the order in which they are shown.

    Args:
        cache_dir: where targets that compile when they open an engine may keep what they made; None keeps nothing.
    """
    return tuple(_made(name, cache_dir) for name in _TARGETS)


def get(name: str, cache_dir: Path | None = None) -> Target:
    """Returns the target of that name; the same object each time, for what it found out about the machine.

    Args:
        name: as a user writes it.
        cache_dir: as for :func:`all_targets`.

    Raises:
        InputError: there is none; the nearest names are offered.
    """
    wanted = name.strip().lower()
    if wanted in _TARGETS:
        return _made(wanted, cache_dir)
    near = difflib.get_close_matches(wanted, _TARGETS, n=2, cutoff=0.4) or sorted(_TARGETS)
    raise InputError(f"unknown target {name!r}: did you mean {' or '.join(near)}?")


def auto_targets() -> tuple[Target, ...]:
    """Returns what ``TARGET=auto`` builds.

    Classic TensorRT where its library and a GPU answer. Elsewhere ONNX Runtime, which runs on any CPU, and beside it
    a TensorRT for RTX plan where that library is installed.
    """
    tensorrt = get("tensorrt")
    if tensorrt.capability().runs:
        return (tensorrt,)
    return tuple(target for target in (get(DEFAULT), get("tensorrt-rtx")) if target.capability().builds)


def runnable_targets() -> tuple[Target, ...]:
    """Returns every target that both builds and runs here: what ``TARGET=fastest`` compares."""
    return tuple(t for t in all_targets() if t.capability().builds and t.capability().runs)


def target_of_file(engine: Path) -> Target:
    """Returns the target that opens an engine file which no bundle describes.

    Raises:
        InputError: its ending tells of none.
    """
    targets = [target for target in all_targets() if engine.suffix.lower() in target.opens]
    if not targets:
        known = ", ".join(ending for target in all_targets() for ending in target.opens)
        raise InputError(f"cannot tell what {engine} is: name a bundle or one of {known}")
    return targets[0]


def stand_in() -> Target:
    """Returns the target that runs any deploy graph on a CPU, in the place of an engine that cannot run here."""
    return get("onnxruntime")


@cache
def _made(name: str, cache_dir: Path | None) -> Target:
    entry = _TARGETS[name]
    return load(entry, cache_dir) if isinstance(entry, str) else entry(cache_dir)
