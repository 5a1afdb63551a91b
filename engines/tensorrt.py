"""TensorRT 8.5 to 11: a plan built on the device that runs it, Jetson, desktop or server.

Building times kernels, so it needs the GPU. It was written and type-checked where there is none, and its calls were
held against the recorded API of each version; it was not executed there.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

from radixrt.engines.base import BuildOptions, BuiltEngine, Capability, Session, Target
from radixrt.engines.gpu import find_gpu
from radixrt.engines.trt_api import TrtApi
from radixrt.engines.trt_build import build_plan

_INSTALL = "It comes with JetPack on Jetson; elsewhere `pip install tensorrt` takes it from NVIDIA's own index."


class TensorRtTarget(Target):
    """The target for NVIDIA GPUs, built on the device."""

    name = "tensorrt"
    suffix = ".plan"

    def capability(self) -> Capability:
        # The stubs package makes a folder of that name with no code in it.
        spec = importlib.util.find_spec("tensorrt")
        if spec is None or spec.origin is None:
            return Capability(self.name, False, False, reason="tensorrt is not installed", hint=_INSTALL)
        try:
            version = TrtApi.load("tensorrt").version_text
        except Exception as error:  # a broken installation raises what it likes
            return Capability(self.name, False, False, reason=f"tensorrt does not load ({error})", hint=_INSTALL)
        gpu = find_gpu()
        if not gpu.usable:
            return Capability(self.name, False, False, version, "", gpu.reason, gpu.hint)
        return Capability(self.name, True, True, version, f"{gpu.name} (compute capability {gpu.capability})")

    def _build(self, deploy: Path, out_dir: Path, options: BuildOptions) -> BuiltEngine:
        from radixrt.engines.legacy_graph import for_version

        started = time.perf_counter()
        api = TrtApi.load("tensorrt")
        cache = _timing_cache_file(api, options.cache_dir)
        known = cache.read_bytes() if cache is not None and cache.exists() else b""
        plan = build_plan(api, for_version(deploy, api), options, timing_cache=known if cache is not None else None)
        engine = out_dir / f"engine{self.suffix}"
        engine.write_bytes(plan.data)
        if cache is not None:
            _replace(cache, plan.timing_cache)
        facts = {
            "compute_capability": find_gpu().capability,
            "timing_cache": "reused" if known else "new" if cache else "none",
        }
        return BuiltEngine((engine,), time.perf_counter() - started, (), facts)

    def _open(self, engine: Path, threads: int) -> Session:
        from radixrt.engines.cuda_session import CudaSession

        return CudaSession(TrtApi.load("tensorrt"), engine)


def _timing_cache_file(api: TrtApi, cache_dir: Path | None) -> Path | None:
    """Timings hold for one device and one library version: both are in the file's name."""
    if cache_dir is None or not api.has_timing_cache:
        return None
    gpu = find_gpu()
    device = "".join(c if c.isalnum() else "-" for c in gpu.name.lower())
    return cache_dir / f"timing-{device}-sm{gpu.capability}-trt{api.version_text}.cache"


def _replace(cache: Path, data: bytes) -> None:
    """Writes beside and renames, so that a build that is stopped leaves the old timings whole."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    beside = cache.with_suffix(".new")
    beside.write_bytes(data)
    beside.replace(cache)
