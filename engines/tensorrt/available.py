"""Is a TensorRT library installed, and does it load? The same question for ``tensorrt`` and ``tensorrt_rtx``."""

from __future__ import annotations

import importlib.util

from radixrt.engines.base import Capability
from radixrt.engines.tensorrt.api import TrtApi


def library_here(target: str, module: str, hint: str) -> Capability:
    """What the library alone allows: it builds where it loads; whether it runs is the GPU's part.

    Args:
        target: the target's name.
        module: what is imported.
        hint: how to install it.
    """
    # A package of type stubs makes a folder of that name with no code in it.
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return Capability(target, False, False, reason=f"{target} is not installed", hint=hint)
    try:
        return Capability(target, True, False, TrtApi.load(module).version_text)
    except Exception as error:  # a broken installation raises what it likes
        return Capability(target, False, False, reason=f"{target} does not load ({error})", hint=hint)
