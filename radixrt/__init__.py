"""RadixRT: a deployment compiler for channel-attention CNNs.

``import radixrt`` is light: the heavy libraries load when a call needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from radixrt.errors import GateError, InputError, RadixRTError, UnavailableError

if TYPE_CHECKING:
    from radixrt.api import compile, load, sweep, validate

__version__ = "0.1.0"
__all__ = [
    "GateError",
    "InputError",
    "RadixRTError",
    "UnavailableError",
    "__version__",
    "compile",
    "load",
    "sweep",
    "validate",
]


def __dir__() -> list[str]:
    return [*__all__, "errors"]


def __getattr__(name: str) -> Any:
    if name in ("compile", "load", "sweep"):
        return getattr(importlib.import_module("radixrt.api"), name)
    if name == "validate":
        return importlib.import_module("radixrt.validate")
    raise AttributeError(f"module 'radixrt' has no attribute {name!r}")
