"""TensorRT for RTX: a real plan, compiled on any x86-64 Linux machine for the GPUs that are named.

It needs a GPU only to run. It has no timing cache. Without a choice the plan is compiled for Ampere, Ada and
Blackwell (compute capabilities 8.6, 8.9 and 12.0), or for the GPU that is here where it is another one. Running a plan
needs an RTX GPU and could not be tried where this was written: there is none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from types import MappingProxyType

from radixrt.engines.base import BuildOptions, BuiltEngine, Capability, Progress
from radixrt.engines.forms.judge import FormJudge
from radixrt.engines.inspection import Inspection
from radixrt.engines.session import Session
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.available import find_gpu, library_here
from radixrt.engines.tensorrt.build import build_plan, check_options, plan_name
from radixrt.engines.tensorrt.plan_target import FP16_GROUPS, INT8_GROUP_MULTIPLE, PlanTarget
from radixrt.engines.tensorrt.rtx.join_shortcut import JoinShortcut
from radixrt.engines.tensorrt.rtx.plan_cost import PlanCost, compare_int8, cost_of_layers, node_macs, plan_cost
from radixrt.engines.tensorrt.rtx.plan_judge import PlanJudge
from radixrt.engines.tensorrt.rtx.space_to_depth import SpaceToDepth
from radixrt.engines.tensorrt.rtx.window_pool import WindowPool
from radixrt.errors import InputError
from radixrt.export.attention.forms import AttentionForm, Combine, Parts, Squeeze
from radixrt.export.passes.base import Pass
from radixrt.export.spec import Int8Outputs, Precision, Traits

DEFAULT_CAPABILITIES = ("8.6", "8.9", "12.0")
KERNELS_NAME = "engine.kernels.json"
_INSTALL = "Install it with `pip install tensorrt-rtx` on x86-64 Linux or Windows."


class TensorRtRtxTarget(PlanTarget):
    """The target for RTX GPUs, built ahead of time."""

    name = "tensorrt-rtx"
    module = "tensorrt_rtx"
    # Its INT8 convolutions take INT8 and write FP32, so an INT8 layer saves one byte of each weight and pays several
    # for each element that it writes: the wider output, the kernel that quantises and its traffic.
    # Compiled plans (SM 8.6, batch 1, 224 x 224) break even at about eight; see docs/decisions/tensorrt-rtx-int8.md.
    traits = Traits(
        title="TensorRT for RTX",
        int8_outputs=Int8Outputs.NONE,
        group_multiple=INT8_GROUP_MULTIPLE,
        weights_per_output=8,
        half_outside_int8=True,
        cpu=False,
        compiled=True,
    )
    # Narrow groups stay in float here, so there is no rule for INT8.
    group_rules = MappingProxyType({Precision.FP16: FP16_GROUPS})

    def _find_capability(self) -> Capability:
        library, gpu = library_here(self.name, self.module, _INSTALL), find_gpu()
        if not library.builds:
            return library
        if not gpu.usable:
            reason = f"plans are built here and not executed: {gpu.reason}"
            return Capability(self.name, True, False, library.version, "", reason, gpu.hint)
        runs_on = self._api.compute_capabilities
        if gpu.capability not in runs_on:
            reason = f"plans are built here and not executed: {gpu.name} has compute capability {gpu.capability}"
            return Capability(
                self.name, True, False, library.version, "", reason, f"Run it on one of {', '.join(runs_on)}."
            )
        return Capability(self.name, True, True, library.version, gpu.name)

    def attention_form(self) -> AttentionForm:
        return AttentionForm(Combine.MIRROR, Parts.SLICE, Squeeze.SUM)

    def passes(self, precision: Precision) -> tuple[Pass, ...]:
        # In INT8 each generated sum would get a scale of its own, where a pooling and a convolution have one.
        generated = (JoinShortcut(), SpaceToDepth()) if precision is not Precision.INT8 else ()
        # Last: the others look for a GlobalAveragePool.
        return (*generated, WindowPool())

    def form_judge(self, precision: Precision, threads: int = 0) -> FormJudge | str:
        capability = self.capability()
        if not capability.builds:
            return capability.reason
        options = BuildOptions(precision=precision)
        return FormJudge(PlanJudge(lambda graph: plan_cost(graph, options)), "plan cost, SM 8.6")

    def _estimate(self, engine: Path, deploy: Path, options: BuildOptions, devices: tuple[str, ...]) -> Inspection:
        from radixrt.engines.layer_origin import Origins
        from radixrt.engines.tensorrt.rtx.roofline import devices_for, find_device, from_cost

        chosen = tuple(find_device(name) for name in devices) or devices_for(options.compute_capabilities)
        kernels = engine.with_name(KERNELS_NAME)
        cost = PlanCost.model_validate_json(kernels.read_bytes()) if kernels.exists() else plan_cost(deploy, options)
        return from_cost(self.name, cost, Origins(deploy), chosen)

    def _check_plan_options(self, options: BuildOptions) -> None:
        api = self._api
        check_options(api, _with_capabilities(options))
        if (options.refit or options.strip_plan) and not find_gpu().usable:
            raise InputError(
                f"TensorRT for RTX {api.version_text} compiles refittable and stripped plans on a GPU only, and "
                f"{find_gpu().reason}: leave --refit and --strip-plan out, or build where the GPU is"
            )

    def _build(
        self, deploy: Path, out_dir: Path, options: BuildOptions, progress: Progress | None = None
    ) -> BuiltEngine:
        started = time.perf_counter()
        options = _with_capabilities(options)
        capabilities = options.compute_capabilities
        graph = deploy.read_bytes()
        plan = build_plan(self._api, graph, options, progress=progress)
        engine = out_dir / plan_name(options)
        engine.write_bytes(plan.data)
        facts = {"compute_capabilities": ", ".join(capabilities)}
        notes = [f"Built for compute capability {', '.join(capabilities)}."]
        if not self.capability().runs:
            notes.append("Built and not executed: no RTX GPU answers here.")
        files = [engine]
        if plan.log.layers:
            cost = cost_of_layers(plan.log.layers[0], node_macs(graph, options))
            kernels = out_dir / KERNELS_NAME
            kernels.write_text(cost.model_dump_json(indent=1))
            files.append(kernels)
            facts |= {"kernels": str(cost.kernels), "bytes_moved": str(cost.bytes_moved)}
            if options.precision is Precision.INT8:
                notes += self._compare_with_fp16(deploy, cost, options)
        return BuiltEngine(tuple(files), time.perf_counter() - started, tuple(notes), facts)

    def _compare_with_fp16(self, deploy: Path, cost: PlanCost, options: BuildOptions) -> list[str]:
        from radixrt.engines.tensorrt.rtx.unquantised import in_float16

        stand_in = plan_cost(in_float16(deploy), dataclasses.replace(options, precision=Precision.FP16))
        return list(compare_int8(cost, stand_in).notes)

    def _open(self, engine: Path, threads: int) -> Session:
        from radixrt.engines.tensorrt.session import CudaSession

        name = f"rtx-{hashlib.sha256(engine.read_bytes()).hexdigest()[:16]}.runtime-cache"
        cache = self._cache_dir / name if self._cache_dir is not None else None
        return CudaSession(self._api, engine, runtime_cache=cache)


def _with_capabilities(options: BuildOptions) -> BuildOptions:
    capabilities = tuple(dict.fromkeys(options.compute_capabilities)) or _usual_capabilities()
    return dataclasses.replace(options, compute_capabilities=capabilities)


def _usual_capabilities() -> tuple[str, ...]:
    """What most RTX GPUs open, or the GPU here, alone: a plan for Turing and others is slower on all of them."""
    here = find_gpu().capability
    known = TrtApi.load("tensorrt_rtx").compute_capabilities
    return DEFAULT_CAPABILITIES if here in DEFAULT_CAPABILITIES or here not in known else (here,)
