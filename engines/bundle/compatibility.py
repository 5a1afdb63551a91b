"""Where an engine may be opened, decided before it is deserialised.

A TensorRT plan holds compiled code: for one operating system, one library version and one kind of GPU, unless it was
built to be more portable. The library finds a misfit only after it has begun to read the file; here it is found in the
manifest, and said in words. ONNX and OpenVINO files are not compiled, so they fit wherever their library does.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from radixrt.engines.base import BuildOptions, BuiltEngine, Target
from radixrt.engines.bundle.manifest import BuiltFor
from radixrt.engines.tensorrt.available import find_gpu
from radixrt.errors import InputError

# Hardware-compatible plans run on this compute capability and on later ones (TensorRT's AMPERE_PLUS level).
_COMPATIBLE_FROM = (8, 0)


@dataclass(frozen=True)
class Host:
    """This machine, as far as a plan cares; empty where something is not here.

    Attributes:
        system: the operating system, as ``platform.system()`` names it.
        machine: the processor family, as ``platform.machine()`` names it.
        library_version: the version of the plan's library.
        device: the GPU's name.
        compute_capability: such as ``8.6``.
    """

    system: str
    machine: str
    library_version: str
    device: str = ""
    compute_capability: str = ""


def this_host(target: Target) -> Host:
    """Looks around, for one target."""
    gpu = find_gpu()
    return Host(platform.system(), platform.machine(), target.capability().version, gpu.name, gpu.capability)


def built_for(target: Target, options: BuildOptions, built: BuiltEngine, host: Host | None = None) -> BuiltFor | None:
    """What a manifest says about an engine that was just built; None where it opens wherever its library does.

    ``host`` is where it was built, if not here.
    """
    if not target.traits.compiled:
        return None
    host = host or this_host(target)
    # Only TensorRT for RTX compiles for GPUs that it is told; the classic library does for the one that is here.
    named = built.facts.get("compute_capabilities") or host.compute_capability
    return BuiltFor(
        system=host.system,
        machine=host.machine,
        library=target.name,
        library_version=host.library_version,
        device=host.device,
        compute_capabilities=tuple(part.strip() for part in named.split(",") if part.strip()),
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        dla_core=options.dla_core,
        refittable=options.refit,
        stripped=options.strip_plan,
    )


def check_fits(engine: BuiltFor | None, host: Host, where: str) -> None:
    """Refuses a plan that was built for something else than what is here.

    What is not here at all (no library, no GPU) is not judged: opening the target says that better.

    Args:
        engine: what the plan was built for.
        host: what is here.
        where: how an error names the bundle.

    Raises:
        InputError: it does not fit; the message says what it was built for and what is here.
    """
    if engine is None:
        return
    for what, wanted, found in (
        ("operating system", engine.system, host.system),
        ("processor family", engine.machine, host.machine),
    ):
        if wanted != found:
            raise _refusal(where, what, wanted, found)
    if host.library_version and not _version_fits(engine, host.library_version):
        raise _refusal(where, f"{engine.library} version", engine.library_version, host.library_version)
    if host.compute_capability and not _gpu_fits(engine, host.compute_capability):
        wanted = " or ".join(engine.compute_capabilities)
        raise _refusal(where, "compute capability", wanted, f"{host.compute_capability} ({host.device})")


def _version_fits(engine: BuiltFor, found: str) -> bool:
    if not engine.version_compatible:
        return engine.library_version == found
    built, here = _numbers(engine.library_version), _numbers(found)
    return built[:1] == here[:1] and here >= built


def _gpu_fits(engine: BuiltFor, found: str) -> bool:
    if not engine.compute_capabilities or found in engine.compute_capabilities:
        return True
    return engine.hardware_compatible and _numbers(found) >= _COMPATIBLE_FROM


def _numbers(version: str) -> tuple[int, ...]:
    """``8.6.1.6`` as numbers; what follows the digits of a part (``1.post1``) is left aside."""
    digits = ["".join(c for c in part if c.isdigit()) for part in version.split(".")]
    return tuple(int(part) for part in digits if part)


def _refusal(where: str, what: str, wanted: str, found: str) -> InputError:
    return InputError(
        f"the plan in {where} was built for {what} {wanted} and this machine has {found}: "
        "make one here with `python3 run.py --build` in the bundle, or with make engine"
    )
