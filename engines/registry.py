"""Every target by name. A target whose library is missing is here too, and says so itself."""

from __future__ import annotations

import difflib
from pathlib import Path

from radixrt.engines.base import Target
from radixrt.errors import InputError

FASTEST = "fastest"
"""What a user writes in the place of a target for a race of all that run here."""


def all_targets(cache_dir: Path | None = None) -> tuple[Target, ...]:
    """Returns one object per target, in the order in which they are shown.

    Args:
        cache_dir: where targets that compile when they open an engine may keep what they made; None keeps nothing.
    """
    from radixrt.engines.cpu.onnxruntime import OnnxRuntimeTarget
    from radixrt.engines.cpu.openvino import OpenVinoTarget
    from radixrt.engines.tensorrt.rtx import TensorRtRtxTarget
    from radixrt.engines.tensorrt.target import TensorRtTarget

    return (TensorRtTarget(), TensorRtRtxTarget(cache_dir), OnnxRuntimeTarget(), OpenVinoTarget(cache_dir))


def get(name: str, cache_dir: Path | None = None) -> Target:
    """Returns the target of that name.

    Args:
        name: as a user writes it.
        cache_dir: as for :func:`all_targets`.

    Raises:
        InputError: there is none; the nearest names are offered.
    """
    targets = {target.name: target for target in all_targets(cache_dir)}
    found = targets.get(name.strip().lower())
    if found is not None:
        return found
    near = difflib.get_close_matches(name.lower(), targets, n=2, cutoff=0.4) or sorted(targets)
    raise InputError(f"unknown target {name!r}: did you mean {' or '.join(near)}?")


def auto_targets() -> tuple[Target, ...]:
    """Returns what ``TARGET=auto`` builds.

    Classic TensorRT where its library and a GPU answer. Elsewhere ONNX Runtime, which runs on any CPU, and beside it
    a TensorRT for RTX plan where that library is installed.
    """
    tensorrt = get("tensorrt")
    if tensorrt.capability().runs:
        return (tensorrt,)
    return tuple(target for target in (get("onnxruntime"), get("tensorrt-rtx")) if target.capability().builds)


def runnable_targets() -> tuple[Target, ...]:
    """Returns every target that both builds and runs here: what ``TARGET=fastest`` compares."""
    return tuple(t for t in all_targets() if t.capability().builds and t.capability().runs)
