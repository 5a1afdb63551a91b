"""TensorRT 8.5 to 11: a plan built on the device that runs it, Jetson, desktop or server.

Building times kernels, so it needs the GPU. Where the library or the GPU is missing, a bundle gets the graph alone, and
the plan is built on the device. It was written and type-checked where there is none, and its calls were
held against the recorded API of each version; it was not executed there.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import onnx_ir as ir

from radixrt.engines.base import BuildOptions, BuiltEngine, Capability, Progress, TritonBackend
from radixrt.engines.cache.device import keep, read_kept
from radixrt.engines.inspection import Inspection
from radixrt.engines.session import Session
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.available import find_gpu, library_here
from radixrt.engines.tensorrt.build import build_plan, check_options, plan_name
from radixrt.engines.tensorrt.plan_target import FP16_GROUPS, INT8_GROUP_MULTIPLE, INT8_GROUPS, PlanTarget
from radixrt.errors import InputError
from radixrt.export.attention.forms import AttentionForm, Combine, Parts, Squeeze
from radixrt.export.spec import Int8Outputs, Precision, Traits

_INSTALL = "It comes with JetPack on Jetson; elsewhere `pip install tensorrt` takes it from NVIDIA's own index."


class TensorRtTarget(PlanTarget):
    """The target for NVIDIA GPUs, built on the device."""

    name = "tensorrt"
    module = "tensorrt"
    opens = (".plan", ".engine")
    triton = TritonBackend("tensorrt", "tensorrt_plan", "model.plan", gpu=True)
    traits = Traits(
        title="TensorRT",
        int8_outputs=Int8Outputs.EPILOGUE,
        group_multiple=INT8_GROUP_MULTIPLE,
        half_outside_int8=True,
        cpu=False,
        compiled=True,
    )
    group_rules = MappingProxyType({Precision.INT8: INT8_GROUPS, Precision.FP16: FP16_GROUPS})

    def _find_capability(self) -> Capability:
        library, gpu = library_here(self.name, self.module, _INSTALL), find_gpu()
        if not library.builds:
            return replace(library, graph=True)
        if not gpu.usable:
            return Capability(self.name, False, False, library.version, "", gpu.reason, gpu.hint, graph=True)
        return Capability(self.name, True, True, library.version, f"{gpu.name} (compute capability {gpu.capability})")

    def attention_form(self) -> AttentionForm:
        return AttentionForm(Combine.BLEND, Parts.SLICE, Squeeze.SUM)

    def remarks(self, graph: ir.Model) -> tuple[str, ...]:
        from radixrt.engines.tensorrt.legacy_graph import refusal

        reason = refusal(graph)
        return () if reason is None else (f"JetPack 5 and 6.0 have TensorRT 8, which cannot build this: {reason}.",)

    def _estimate(self, engine: Path, deploy: Path, options: BuildOptions, devices: tuple[str, ...]) -> Inspection:
        raise InputError(f"a {self.name} plan is inspected where it runs: {self.capability().reason}")

    def _check_plan_options(self, options: BuildOptions) -> None:
        if self.capability().on_device:
            raise InputError(
                f"{self.name} builds no plan here ({self.capability().reason}), so there is none to give "
                f"{' and '.join(options.of_plans)}: leave it out, or build where the GPU is"
            )
        check_options(self._api, options)

    def _build(
        self, deploy: Path, out_dir: Path, options: BuildOptions, progress: Progress | None = None
    ) -> BuiltEngine:
        from radixrt.engines.tensorrt.legacy_graph import for_version

        started = time.perf_counter()
        api = self._api
        cache = _timing_cache_file(api, options.cache_dir)
        known = read_kept(cache)
        timings = known if cache is not None else None
        plan = build_plan(api, for_version(deploy, api), options, timing_cache=timings, progress=progress)
        engine = out_dir / plan_name(options)
        engine.write_bytes(plan.data)
        if cache is not None and plan.timing_cache:
            keep(cache, plan.timing_cache)
        facts = {
            "compute_capability": find_gpu().capability,
            "timing_cache": "reused" if known else "new" if cache else "none",
        }
        return BuiltEngine((engine,), time.perf_counter() - started, (), facts)

    def _open(self, engine: Path, threads: int) -> Session:
        from radixrt.engines.tensorrt.session import CudaSession

        return CudaSession(self._api, engine)


def _timing_cache_file(api: TrtApi, cache_dir: Path | None) -> Path | None:
    """Timings hold for one device and one library version: both are in the file's name."""
    if cache_dir is None:
        return None
    gpu = find_gpu()
    device = "".join(c if c.isalnum() else "-" for c in gpu.name.lower())
    return cache_dir / f"timing-{device}-sm{gpu.capability}-trt{api.version_text}.cache"
