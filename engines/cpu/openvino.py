"""OpenVINO: Intel CPUs, GPUs and NPUs, and ARM CPUs, from the same deploy graph.

The engine is OpenVINO's own ``.xml`` with its weights in a ``.bin`` beside it. Q/DQ pairs become OpenVINO's INT8
kernels; what is left runs in FP32 on every processor. Left to itself, OpenVINO takes BF16 or FP16 where the processor
multiplies it natively, and the same file gives other numbers there. A BF16 engine is the FP32 graph in a file that asks
for BF16, and is only built where the processor has it. An FP16 deploy graph keeps its FP16 weights in the file.
"""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radixrt.engines.base import BuildOptions, BuiltEngine, Capability, Progress, Target
from radixrt.engines.cpu.channel_maximum import extremes_apart
from radixrt.engines.cpu.saturation import unsaturated
from radixrt.engines.session import Array, Session, TensorSpec
from radixrt.errors import InputError
from radixrt.export.spec import Precision, Traits

if TYPE_CHECKING:
    from radixrt.engines.inspection import LayerRow
    from radixrt.engines.layer_origin import Origins

_INSTALL = "Install it with `pip install openvino`."
# OpenVINO's device, most useful first. "AUTO" is not used: it starts on the CPU and moves, which would measure two
# things.
_DEVICE = "CPU"
_NOTES = {
    Precision.FP32: "OpenVINO computes in FP32 on every processor, also where it would take BF16 by itself.",
    Precision.BF16: "OpenVINO multiplies in BF16, adds in FP32 and keeps FP32 weights in the file.",
    Precision.FP16: "OpenVINO keeps the FP16 weights and computes in FP32 on every processor.",
    Precision.INT8: "OpenVINO computes what is not INT8 in FP32 on every processor.",
}
INFERENCE_PRECISION = "f32"
"""What is not INT8 is computed in this, whatever the processor prefers, unless the engine's file says otherwise; the
manifest says so to ``run.py``."""

_INFO = ["radixrt", "inference_precision"]
"""Where a BF16 engine's file says what it computes in."""


_SETS_WITH_BF16 = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")
"""What the names of oneDNN's instruction sets with BF16 contain."""


class OpenVinoSession(Session):
    """A compiled OpenVINO model and one inference request of it.

    Args:
        engine: the ``.xml`` file.
        threads: threads of one inference; 0 lets OpenVINO choose.
        profile: collect the time of each layer.
        cache_dir: where compiled models are kept, so that the next opening is quick; None keeps none.
    """

    def __init__(self, engine: Path, threads: int, *, profile: bool = False, cache_dir: Path | None = None) -> None:
        import openvino as ov

        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": INFERENCE_PRECISION,
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        if profile:
            config["PERF_COUNT"] = True
        if cache_dir is not None:
            config["CACHE_DIR"] = str(cache_dir)
        self._engine, core = engine, ov.Core()
        try:
            model = core.read_model(str(engine))
            if model.has_rt_info(_INFO):
                config["INFERENCE_PRECISION_HINT"] = str(model.get_rt_info(_INFO).value)
            names = [port.get_any_name() for port in (*model.inputs, *model.outputs)]
            self._compiled: Any = core.compile_model(model, _DEVICE, config)
        except RuntimeError as error:
            raise InputError(f"{engine} cannot be opened by OpenVINO ({_last_line(error)}): build it again") from error
        self._request: Any = self._compiled.create_infer_request()
        # A compiled port has several names where a Cast beside it was fused: those of the file are the ones to keep.
        ports = zip(names, (*self._compiled.inputs, *self._compiled.outputs), strict=True)
        specs = tuple(_spec(name, port) for name, port in ports)
        self.inputs = specs[: len(self._compiled.inputs)]
        self.outputs = specs[len(self._compiled.inputs) :]

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        # Inputs are shared, because they are not kept; outputs are copied, because the next run overwrites them.
        try:
            results = self._request.infer(feeds, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise InputError(f"OpenVINO stopped in {self._engine} at this input ({_last_line(error)})") from error
        return {spec.name: np.array(results[spec.name]) for spec in self.outputs}

    def profiling(self) -> tuple[Any, ...]:
        """Returns OpenVINO's record of each layer in the last run."""
        return tuple(self._request.profiling_info)

    def original_names(self) -> dict[str, tuple[str, ...]]:
        """Returns, for each compiled layer, the names of the graph's nodes that were fused into it."""
        names: dict[str, tuple[str, ...]] = {}
        for operation in self._compiled.get_runtime_model().get_ordered_ops():
            info = operation.get_rt_info()
            if "originalLayersNames" in info:
                text = info["originalLayersNames"]
                text = text.astype(str) if hasattr(text, "astype") else text
                names[operation.get_friendly_name()] = tuple(str(text).split(","))
        return names

    @property
    def inference_precision(self) -> str:
        """The type of what is not INT8, as OpenVINO resolved it."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def _release(self) -> None:
        self._request = None
        self._compiled = None


class OpenVinoTarget(Target):
    """The target for Intel and ARM processors."""

    name = "openvino"
    suffix = ".xml"
    opens = (".xml",)
    traits = Traits(title="OpenVINO", full_range_u8=True, weights_in_pairs=True)

    def _find_capability(self) -> Capability:
        if importlib.util.find_spec("openvino") is None:
            return Capability(self.name, False, False, reason="openvino is not installed", hint=_INSTALL)
        try:
            import openvino as ov

            device = str(ov.Core().get_property(_DEVICE, "FULL_DEVICE_NAME")).strip()
        except Exception as error:  # a broken installation raises what it likes
            return Capability(self.name, False, False, reason=f"openvino does not load ({error})", hint=_INSTALL)
        return Capability(self.name, True, True, version=ov.__version__.split("-")[0], device=device)

    def lacks_bf16(self) -> str:
        if not self.capability().runs:
            return self.capability().reason
        import openvino as ov

        # OpenVINO looks at the processor alone; its kernels heed oneDNN's limit, and it finds none for some layers.
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
        if limit and not any(word in limit for word in _SETS_WITH_BF16):
            return f"ONEDNN_MAX_CPU_ISA={limit} keeps OpenVINO's kernels from BF16 instructions"
        # Elsewhere OpenVINO would take the hint and compute in FP32.
        found = ov.Core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        return "" if "BF16" in found else "this processor has no BF16 instructions"

    def files_of(self, engine: Path) -> set[Path]:
        return {engine, engine.with_suffix(".bin")}

    def _layers(self, engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
        from radixrt.engines.cpu.inspect import openvino_layers

        return openvino_layers(engine, origins, options, runs)

    def _build(
        self, deploy: Path, out_dir: Path, options: BuildOptions, progress: Progress | None = None
    ) -> BuiltEngine:
        import onnx_ir as ir
        import openvino as ov

        started = time.perf_counter()
        try:
            if options.precision is Precision.INT8:
                graph = ir.to_proto(extremes_apart(unsaturated(ir.load(deploy)))).SerializeToString()
                model = ov.Core().read_model(graph, b"")
            else:
                model = ov.Core().read_model(str(deploy))
        except Exception as error:  # OpenVINO's and protobuf's own, which share no base
            raise InputError(
                f"OpenVINO cannot read {deploy.name} ({_last_line(error)}): use TARGET=onnxruntime for this model"
            ) from error
        if options.sides is not None:
            _bound(model, options)
        engine = out_dir / f"engine{self.suffix}"
        if options.precision is Precision.BF16:
            model.set_rt_info("bf16", _INFO)
        # The graph is typed already: nothing is compressed behind the user's back.
        ov.save_model(model, str(engine), compress_to_fp16=False)
        with OpenVinoSession(engine, options.threads) as session:
            rest = session.inference_precision
        return BuiltEngine(
            (engine, engine.with_suffix(".bin")),
            time.perf_counter() - started,
            (_NOTES[options.precision],),
            {"inference_precision": rest},
        )

    def _open(self, engine: Path, threads: int) -> Session:
        return OpenVinoSession(engine, threads, cache_dir=self._cache_dir)


def _bound(model: Any, options: BuildOptions) -> None:
    """Tells a model the bounds of its free dimensions, which its kernels are chosen and its memory is planned by."""
    import openvino as ov

    assert options.sides is not None
    bounds = {}
    for port in model.inputs:
        ranges, shape = iter(options.sides.free_ranges), []
        for place, dim in enumerate(port.get_partial_shape()):
            side = next(ranges, None) if dim.is_dynamic and place else None
            if side is not None:
                dim = ov.Dimension(side.min, side.max)
            elif dim.is_dynamic and not place:
                dim = ov.Dimension(options.batch.min, options.batch.max)
            shape.append(dim)
        bounds[port] = ov.PartialShape(shape)
    model.reshape(bounds)


def _spec(name: str, port: Any) -> TensorSpec:
    shape = tuple(-1 if dim.is_dynamic else dim.get_length() for dim in port.get_partial_shape())
    return TensorSpec(name, np.dtype(port.get_element_type().to_dtype()), shape)


def _last_line(error: BaseException) -> str:
    """What went wrong; the lines before it say where in OpenVINO's own source."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
