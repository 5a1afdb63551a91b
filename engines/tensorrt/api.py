"""Every difference between TensorRT 8.5, 8.6, 10.x, 11.x and TensorRT for RTX that this project meets.

Nowhere else asks for a version.

What differs:

- Explicit batch is a network flag on 8.x, the only way from 10.0 on. Flags are always taken from the enum: bit 1
  means different things.
- STRONGLY_TYPED exists from 10.0 on and is how everything works in 11. On 8.x the FP16 and INT8 builder flags are
  set, and Q/DQ pairs and types decide.
- IProgressMonitor exists from 10.0 on; version-compatible plans and hardware-compatible plans from 8.6 on; stripped
  plans from 10.0 on.
- TensorRT for RTX has no DLA and no timing cache (asking for one forces a GPU query), and takes the compute
  capabilities to compile for.
- Tensors inside a plan can be shown to a listener from 10.0 on (``trt_debug``).
- The memory an execution context needs is ``device_memory_size`` up to 10 and ``device_memory_size_v2`` from 10.1 on;
  11 has only the latter.
- A parser error names its node from 10.0 on; on 8.x it gives an index into the file's nodes.
- ``trt.nptype`` breaks on 8.5 with a new NumPy, so element types are read by their name.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from radixrt.errors import InputError

if TYPE_CHECKING:
    import tensorrt as trt

_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


class TrtApi:
    """One TensorRT library, spoken to the same way whichever version it is.

    Args:
        module: the imported ``tensorrt`` or ``tensorrt_rtx``.
    """

    def __init__(self, module: Any) -> None:
        self.trt = module
        self.version_text = str(module.__version__)
        numbers = [int(part) for part in re.findall(r"\d+", self.version_text)]
        self.version = (numbers[0], numbers[1] if len(numbers) > 1 else 0)
        self.rtx = hasattr(module, "IRuntimeCache") or module.__name__ == "tensorrt_rtx"
        self.product = "TensorRT for RTX" if self.rtx else "TensorRT"

    @classmethod
    def load(cls, name: str) -> TrtApi:
        """Imports ``tensorrt`` or ``tensorrt_rtx``.

        Raises:
            ImportError: it is missing, or its libraries do not load.
        """
        return cls(importlib.import_module(name))

    # What this version has

    def has_flag(self, enum: str, member: str) -> bool:
        """Says whether an enum of this version has a member."""
        return hasattr(getattr(self.trt, enum, None), member)

    @property
    def strongly_typed(self) -> bool:
        """Types come from the graph (10.0 and later, and RTX), not from builder flags (8.x)."""
        return self.rtx or self.version >= (10, 0)

    @property
    def max_opset(self) -> int | None:
        """The newest ONNX opset that the parser of this version reads, where it is known to be older than ours."""
        return None if self.strongly_typed else 17

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """The GPUs that TensorRT for RTX compiles for, such as ``8.6``."""
        numbers = (re.fullmatch(r"SM(\d+)(\d)", member) for member in vars(self.trt.ComputeCapability))
        found = sorted((int(number[1]), int(number[2])) for number in numbers if number)
        return tuple(f"{major}.{minor}" for major, minor in found)

    @property
    def shows_tensors(self) -> bool:
        """A run can show the tensors inside a plan."""
        return hasattr(self.trt, "IDebugListener")

    # Building

    def logger(self, sink: Callable[[str, str], None]) -> trt.ILogger:
        """Returns a logger that hands each message to ``sink(severity, text)``.

        Args:
            sink: takes ``INTERNAL_ERROR``, ``ERROR``, ``WARNING``, ``INFO`` or ``VERBOSE``, and the text.
        """

        class Logger(self.trt.ILogger):  # type: ignore[name-defined,misc]  # known once the library is loaded
            def __init__(self) -> None:
                super().__init__()

            def log(self, severity: Any, msg: str) -> None:
                sink(str(severity).rsplit(".", 1)[-1], msg)

        logger: trt.ILogger = Logger()
        return logger

    def network(self, builder: trt.Builder) -> trt.INetworkDefinition:
        """Returns an empty network, strongly typed where that exists."""
        flags = 0
        for flag in ("EXPLICIT_BATCH",) if not self.strongly_typed else ("STRONGLY_TYPED",):
            if self.has_flag("NetworkDefinitionCreationFlag", flag):
                flags |= 1 << int(getattr(self.trt.NetworkDefinitionCreationFlag, flag))
        return builder.create_network(flags)

    def set_flag(self, config: trt.IBuilderConfig, name: str, what: str) -> None:
        """Sets a builder flag by name.

        Raises:
            InputError: this version has no such flag; ``what`` says in words what was asked for.
        """
        if not self.has_flag("BuilderFlag", name):
            raise InputError(f"{self.product} {self.version_text} cannot make {what}: leave that option out")
        config.set_flag(getattr(self.trt.BuilderFlag, name))

    def set_precision_flags(self, config: trt.IBuilderConfig, *, half: bool, int8: bool) -> None:
        """Allows FP16 and INT8 on 8.x. From 10.0 on the types of the graph say it all, and this does nothing."""
        if self.strongly_typed:
            return
        if half:
            self.set_flag(config, "FP16", "FP16 engines")
        if int8:
            self.set_flag(config, "INT8", "INT8 engines")

    def set_version_compatible(self, config: trt.IBuilderConfig) -> None:
        """Asks for a plan that later versions can run, with the lean runtime of this one beside them.

        The lean runtime inside such a plan would be host code, which is never run here: it is left out.

        Raises:
            InputError: this library cannot.
        """
        if self.rtx:
            raise InputError(
                "a TensorRT for RTX plan opens with the release that built it and with no other: leave the "
                "version-compatible option out, and build again for another release"
            )
        self.set_flag(config, "VERSION_COMPATIBLE", "version-compatible plans")
        self.set_flag(config, "EXCLUDE_LEAN_RUNTIME", "version-compatible plans without host code")

    def set_hardware_compatible(self, config: trt.IBuilderConfig) -> None:
        """Asks for a plan that every GPU from Ampere on can run.

        Raises:
            InputError: this library cannot.
        """
        if self.rtx:
            raise InputError(
                "TensorRT for RTX names the GPUs it compiles for: use compute capabilities instead of a "
                "hardware-compatible plan"
            )
        if not self.has_flag("HardwareCompatibilityLevel", "AMPERE_PLUS"):
            raise InputError(
                f"TensorRT {self.version_text} cannot make hardware-compatible plans (8.6 and later can): leave "
                "that option out"
            )
        config.hardware_compatibility_level = self.trt.HardwareCompatibilityLevel.AMPERE_PLUS

    def set_dla(self, builder: trt.Builder, config: trt.IBuilderConfig, core: int) -> None:
        """Puts layers on a DLA core where it takes them, and on the GPU where it does not.

        Raises:
            InputError: this library or this device has no such core.
        """
        cores = 0 if self.rtx else int(builder.num_DLA_cores)
        if core >= cores:
            raise InputError(
                f"DLA core {core} is not there: {self.product} {self.version_text} finds {cores} DLA cores on "
                "this device, leave that option out"
            )
        config.default_device_type = self.trt.DeviceType.DLA
        config.DLA_core = core
        self.set_flag(config, "GPU_FALLBACK", "engines with GPU fallback")

    def set_workspace(self, config: trt.IBuilderConfig, size: int) -> None:
        """Limits the scratch memory of a kernel, in bytes."""
        config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, size)

    def set_detailed(self, config: trt.IBuilderConfig) -> None:
        """Keeps layer names, tensors and types in the plan, for inspection; the kernels stay the same."""
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED

    def set_builder_level(self, config: trt.IBuilderConfig, level: int) -> None:
        """Sets how long the builder may search, 0 to 5.

        Raises:
            InputError: this version has no levels.
        """
        if not hasattr(config, "builder_optimization_level"):
            raise InputError(
                f"TensorRT {self.version_text} has no builder levels (8.6 and later have): leave that option out"
            )
        config.builder_optimization_level = level

    def set_progress_monitor(self, config: trt.IBuilderConfig, step: Callable[[str, int, int], bool]) -> Any:
        """Reports progress to ``step(phase, done, total)``, which returns False to stop the build.

        Before 10.0 there is no such monitor, and nothing happens.

        Returns:
            The monitor, which the caller keeps alive until the build is over.
        """
        if not hasattr(self.trt, "IProgressMonitor"):
            return None

        class Monitor(self.trt.IProgressMonitor):  # type: ignore[name-defined,misc]  # known once the library is loaded
            def __init__(self) -> None:
                super().__init__()
                self._totals: dict[str, int] = {}

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                self._totals[phase_name] = num_steps

            def phase_finish(self, phase_name: str) -> None:
                step(phase_name, self._totals.get(phase_name, 0), self._totals.get(phase_name, 0))

            def step_complete(self, phase_name: str, done: int) -> bool:
                return step(phase_name, done, self._totals.get(phase_name, 0))

        monitor = Monitor()
        config.progress_monitor = monitor
        return monitor

    def timing_cache(self, config: trt.IBuilderConfig, known: bytes) -> trt.ITimingCache | None:
        """Gives a build the timings of an earlier one on this device and returns the cache that collects its own.

        Args:
            config: of the build.
            known: an earlier cache; damaged or foreign timings are dropped, and a new cache takes their place.
        """
        for timings in dict.fromkeys((known, b"")):
            cache: trt.ITimingCache | None = config.create_timing_cache(timings)
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
        return None

    def set_compute_capabilities(self, config: Any, capabilities: tuple[str, ...]) -> None:
        """Names the GPUs that TensorRT for RTX compiles for, such as ``8.6``.

        Raises:
            InputError: the library does not compile for one of them; those it knows are offered.
        """
        known = self.compute_capabilities
        for capability in capabilities:
            if capability not in known:
                raise InputError(
                    f"TensorRT for RTX {self.version_text} does not compile for compute capability "
                    f"{capability!r}: choose from {', '.join(known)}"
                )
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            member = f"SM{capability.replace('.', '')}"
            config.set_compute_capability(getattr(self.trt.ComputeCapability, member), index)

    def parser_errors(self, parser: trt.OnnxParser) -> tuple[tuple[int, str, str], ...]:
        """Returns node index, node name and description of each error; on 8.x the name is empty."""
        errors = (parser.get_error(index) for index in range(parser.num_errors))
        return tuple((e.node(), str(e.node_name()) if hasattr(e, "node_name") else "", e.desc()) for e in errors)

    @staticmethod
    def shape(dims: Any) -> tuple[int, ...]:
        """Returns the library's own shape as a tuple; an open dimension is -1."""
        return tuple(int(dim) for dim in dims)

    # Running

    def runtime(self, logger: trt.ILogger) -> trt.Runtime:
        """Returns a runtime that never executes host code from a plan: a plan is data, whoever made it."""
        runtime: trt.Runtime = self.trt.Runtime(logger)
        if hasattr(runtime, "engine_host_code_allowed"):
            runtime.engine_host_code_allowed = False
        return runtime

    def refit(self, engine: trt.ICudaEngine, logger: trt.ILogger, graph: bytes) -> bool:
        """Puts a graph's weights into an engine that was built without them; says whether all went in."""
        refitter = self.trt.Refitter(engine, logger)
        parser = self.trt.OnnxParserRefitter(refitter, logger)
        return bool(parser.refit_from_bytes(graph)) and bool(refitter.refit_cuda_engine())

    def execution_context(self, engine: Any, runtime_cache: bytes, *, capture: bool = True) -> tuple[Any, Any]:
        """Returns an execution context of an engine, and with TensorRT for RTX its runtime cache (else None).

        Args:
            engine: the engine.
            runtime_cache: a runtime cache that was serialised on this GPU, b"" where there is none.
            capture: TensorRT for RTX records a CUDA graph by itself.
        """
        if not self.rtx:
            return engine.create_execution_context(), None
        config = engine.create_runtime_config()
        strategy = self.trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if capture else strategy.DISABLED
        cache = config.create_runtime_cache()
        if runtime_cache:
            # A cache of another GPU or driver is refused by the library and leaves this one empty, which is fine.
            cache.deserialize(runtime_cache)
        config.set_runtime_cache(cache)
        return engine.create_execution_context(config), cache

    def profiler(self, sink: Callable[[str, float], None]) -> Any:
        """Returns a profiler that reports each layer to ``sink(name, milliseconds)``."""

        class Profiler(self.trt.IProfiler):  # type: ignore[name-defined,misc]  # known once the library is loaded
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                sink(layer_name, ms)

        return Profiler()

    def is_input(self, engine: trt.ICudaEngine, name: str) -> bool:
        """Says whether a tensor of the engine is an input."""
        return bool(engine.get_tensor_mode(name) == self.trt.TensorIOMode.INPUT)

    def dtype(self, engine: trt.ICudaEngine, name: str) -> np.dtype[Any]:
        """Returns a tensor's element type.

        Raises:
            InputError: NumPy has no such type.
        """
        return self.numpy_dtype(name, engine.get_tensor_dtype(name))

    @staticmethod
    def numpy_dtype(name: str, member: Any) -> np.dtype[Any]:
        """Returns an element type of the library as NumPy's; the tensor's name is for the error.

        Raises:
            InputError: NumPy has no such type.
        """
        text = str(member).rsplit(".", 1)[-1]
        if text not in _NUMPY:
            raise InputError(
                f"tensor {name!r} is {text}, which NumPy does not have: export the model with float32 inputs and "
                "outputs"
            )
        return np.dtype(_NUMPY[text])

    def device_memory_bytes(self, engine: Any) -> int:
        """Returns the device memory that one execution context of the engine needs, in bytes."""
        return int(
            engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
        )
