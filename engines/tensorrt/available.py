"""Whether a TensorRT library (``tensorrt`` or ``tensorrt_rtx``) loads, and whether an NVIDIA GPU can be used."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from radixrt.engines.base import Capability
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.cuda_driver import load_driver

# What the driver puts there: for desktop and server GPUs, on Jetson (two forms), and in Windows' own Linux.
_NODES = ("/dev/nvidiactl", "/dev/nvgpu", "/dev/nvhost-gpu", "/usr/lib/wsl/lib/libcuda.so.1")


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines run on, or why there is none.

    Attributes:
        name: the device's name as the driver gives it; empty where there is none.
        capability: its compute capability, such as ``8.6``.
        reason: why it cannot be used; empty where it can.
        hint: what would make it usable.
    """

    name: str = ""
    capability: str = ""
    reason: str = ""
    hint: str = ""

    @property
    def usable(self) -> bool:
        return not self.reason


@cache
def find_gpu() -> Gpu:
    """Asks the driver for the first GPU. Never raises."""
    present = any(Path(node).exists() for node in _NODES)
    if not present:
        return Gpu(reason="no NVIDIA GPU answers here", hint="Run it on a machine with an NVIDIA GPU and its driver.")
    try:
        driver = load_driver()
    except ImportError as error:
        return Gpu(
            reason=f"an NVIDIA GPU is here, but {error}",
            hint="install one: `pip install cuda-python` needs no compiler, `pip install pycuda` the CUDA toolkit",
        )
    try:
        driver.init()
        device = driver.Device(0)
        major, minor = device.compute_capability()
        return Gpu(name=str(device.name()), capability=f"{major}.{minor}")
    except Exception as error:  # a driver error is an answer here, not a bug
        return Gpu(reason=f"the NVIDIA driver does not answer ({error})", hint="check the driver with nvidia-smi")


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
