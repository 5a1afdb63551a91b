"""An engine is held against the original: parity, accuracy, latency, drift, gates, report.

The package is also the call ``radixrt.validate(engine, ...)``: see ``docs/decisions/validate-is-a-call.md``.
"""

from __future__ import annotations

import importlib
import sys
from inspect import Signature, signature
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    @property
    def __signature__(self) -> Signature:
        return signature(importlib.import_module("radixrt.api").validate)

    def __call__(self, *args: Any, **options: Any) -> Any:
        # By name at run time: the package itself must not depend on the public face above it.
        return importlib.import_module("radixrt.api").validate(*args, **options)


sys.modules[__name__].__class__ = _CallablePackage
