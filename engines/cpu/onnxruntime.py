"""ONNX Runtime: the engine is a standard ONNX file, opened with the session options that serve a CPU best.

``engine.onnx`` stays the portable graph and is optimised when it is opened. ONNX Runtime can save what its optimiser
makes, but such a file holds fused operators of that very version, and above the "extended" level a memory layout
chosen for the processor it was made on: a bundle is carried to other machines, so it must hold neither. What is saved
is decided once, here:

- int8: the unsigned form of the deploy graph (the same numbers), because the x86 kernels take unsigned
  activations; weights that ONNX Runtime would turn into floats at every run are floats in the file.
- fp16: ONNX Runtime's CPU provider has no FP16 convolution; it would cast every tensor forth and back. The engine
  keeps the FP16 weights and computes in FP32. Where the CUDA provider is installed the FP16 graph is used as it is.
- fp32: the deploy graph.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radixrt.engines.base import BuildOptions, BuiltEngine, Capability, Progress, Target, TritonBackend
from radixrt.engines.cpu.float_layers import keep_float_layers
from radixrt.engines.session import Array, Session, TensorSpec
from radixrt.errors import InputError, first_line
from radixrt.export.graph.session import silent_runtime, with_kept_pads
from radixrt.export.passes.float32 import has_half, to_float32
from radixrt.export.spec import Precision, Traits

if TYPE_CHECKING:
    import onnx_ir as ir

    from radixrt.engines.inspection import LayerRow
    from radixrt.engines.layer_origin import Origins
    from radixrt.export.passes.base import Pass

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}
_INSTALL = "Install it with `pip install onnxruntime`."


def session_options(threads: int = 0) -> Any:
    """Returns the session options that engines are opened with.

    Args:
        threads: threads of one operator; 0 lets ONNX Runtime take one per physical core.
    """
    ort = silent_runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # These networks are one chain of operators: a second pool of threads would only contend with the first.
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = True
    options.enable_mem_pattern = True
    # Sigmoid gates and trained weights make denormals, which x86 handles a hundred times slower than zero. It
    # holds for the workers of the session, not for the thread that calls it.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # Workers spin between operators, not after a run: they would take a core from whatever comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class OnnxRuntimeSession(Session):
    """An open ONNX Runtime session.

    Args:
        engine: the file.
        threads: of one operator; 0 lets ONNX Runtime choose.
        profile_prefix: profiles every run into a file of this name.
        foreign: somebody else may have made the file: one that the runtime can run and its own optimiser breaks is
            opened with the optimiser's basic part alone, and ``remark`` says so.

    Raises:
        InputError: the runtime refuses the file.
    """

    concurrent = True

    def __init__(
        self, engine: Path, threads: int, *, profile_prefix: Path | None = None, foreign: bool = False
    ) -> None:
        ort = silent_runtime()
        options = session_options(threads)
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_prefix)
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in ort.get_available_providers()]

        self._engine, self._options, self._providers, self._foreign = engine, options, providers, foreign
        try:
            self._session: Any = self._opened()
        except Exception as error:  # ONNX Runtime's own exception classes are not public
            why = first_line(error)
            session = self._plainly_opened(why)
            if session is None:
                raise InputError(f"{engine} cannot be opened by ONNX Runtime ({why}): build it again") from error
            self._session = session
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        names, session = [spec.name for spec in self.outputs], self._session
        if session is None:  # another thread closed it in between
            raise InputError("the session is closed: open the engine again")
        try:
            return dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime's own exception classes are not public
            why = first_line(error)
            plain = self._plainly_opened(why)
            if plain is None:
                raise InputError(f"ONNX Runtime stopped in {self._engine} at this input ({why})") from error
            self._session = plain
        return self._run(feeds)

    def _opened(self) -> Any:
        # The first session of a process leaves the thread that opens it without denormals, for good: not the caller's,
        # whose NumPy would compute something else from then on.
        with ThreadPoolExecutor(1) as opener:
            start = silent_runtime().InferenceSession
            return opener.submit(start, str(self._engine), self._options, providers=self._providers).result()

    def _plainly_opened(self, why: str) -> Any:
        """Opens somebody else's file, which failed for a reason, with less optimisation; None if that fails too."""
        if not self._foreign or self.remark:
            return None
        self._options.graph_optimization_level = silent_runtime().GraphOptimizationLevel.ORT_ENABLE_BASIC
        with contextlib.suppress(Exception):
            session = self._opened()
            self.remark = (
                f"ONNX Runtime's own optimiser breaks {self._engine.name} ({why}): it was opened with basic "
                "optimisations alone, so its times may be longer than they could be."
            )
            return session
        return None

    def end_profiling(self) -> Path:
        """Stops the profile that was asked for when the session was opened, and returns its file."""
        return Path(self._session.end_profiling())

    def _release(self) -> None:
        self._session = None


class OnnxRuntimeTarget(Target):
    """The target that runs anywhere."""

    name = "onnxruntime"
    suffix = ".onnx"
    opens = (".onnx",)
    triton = TritonBackend("onnxruntime", "onnxruntime_onnx", "model.onnx", gpu=False)
    traits = Traits(
        title="ONNX Runtime",
        full_range_u8=True,
        weights_in_pairs=True,
        zero_points=True,
        int8_between=True,
        int8_transposed=False,
    )

    def _find_capability(self) -> Capability:
        if importlib.util.find_spec("onnxruntime") is None:
            return Capability(self.name, False, False, reason="onnxruntime is not installed", hint=_INSTALL)
        try:
            import onnxruntime as ort
        except ImportError as error:
            return Capability(self.name, False, False, reason=f"onnxruntime does not load ({error})", hint=_INSTALL)
        return Capability(self.name, True, True, version=ort.__version__, device="CUDA, CPU" if _cuda() else "CPU")

    def passes(self, precision: Precision) -> tuple[Pass, ...]:
        from radixrt.engines.cpu.global_pool import MeansAsPools
        from radixrt.engines.cpu.hard_swish import HardSwishParts
        from radixrt.engines.cpu.one_gelu import OneGelu
        from radixrt.engines.cpu.relu_behind_pool import ReluBehindPool

        if precision is not Precision.INT8:
            return ()
        return ReluBehindPool(), MeansAsPools(), HardSwishParts(), OneGelu()

    def files_of(self, engine: Path) -> set[Path]:
        import onnx_ir as ir

        values = (value.const_value for value in ir.load(engine).graph.initializers.values())
        return {engine, *(Path(value.path) for value in values if isinstance(value, ir.ExternalTensor))}

    def _layers(self, engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
        from radixrt.engines.cpu.inspect import onnxruntime_layers

        return onnxruntime_layers(engine, origins, options, runs)

    def _build(
        self, deploy: Path, out_dir: Path, options: BuildOptions, progress: Progress | None = None
    ) -> BuiltEngine:
        import onnx_ir as ir

        started = time.perf_counter()
        try:
            model = ir.load(deploy)
        except Exception as error:  # protobuf raises its own errors for a damaged file
            raise InputError(f"{deploy} is not a readable ONNX file: export the model again") from error
        notes: tuple[str, ...] = ()
        if options.precision is Precision.INT8:
            from radixrt.engines.cpu.integer_gates import saturating_sums
            from radixrt.engines.cpu.unsigned import to_unsigned

            model = to_unsigned(model)
            saturating_sums(model)
            keep_float_layers(model)
        if not _cuda() and has_half(model):
            model = to_float32(model, keep_half_weights=True)
            notes = (
                "ONNX Runtime has no FP16 convolutions on a CPU: the engine keeps FP16 weights and computes in FP32.",
            )
        model = with_kept_pads(model)
        engine = out_dir / f"engine{self.suffix}"
        ir.save(model, engine)
        if options.precision is Precision.INT8:
            self._fold_float_weights(model, engine)
        # Opening is the test that ONNX Runtime takes the graph; a refusal must come now, not on the user's machine.
        OnnxRuntimeSession(engine, options.threads).close()
        return BuiltEngine((engine,), time.perf_counter() - started, notes, {"provider": "CUDA" if _cuda() else "CPU"})

    @staticmethod
    def _fold_float_weights(model: ir.Model, engine: Path) -> None:
        import onnx_ir as ir

        from radixrt.engines.cpu.float_weights import dequantised_at_every_run, fold

        with tempfile.TemporaryDirectory() as scratch:
            names = dequantised_at_every_run(engine, Path(scratch))
        if names:
            fold(model, names)
            ir.save(model, engine)

    def _open(self, engine: Path, threads: int) -> Session:
        return OnnxRuntimeSession(engine, threads, foreign=True)


def _cuda() -> bool:
    import onnxruntime as ort

    return "CUDAExecutionProvider" in ort.get_available_providers()


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise InputError(
            f"tensor {value.name!r} is {value.type}, which no engine here takes: export the model with float32 inputs"
        )
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    return TensorSpec(value.name, np.dtype(_DTYPES[value.type]), shape)
