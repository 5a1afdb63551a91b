"""The TensorRT plan of a bundle as ``run.py`` builds, opens, runs and times it on the device.

It travels with a bundle as it stands, beside ``bundle_files.py``, ``cuda_driver.py`` and ``cuda_graph.py``: it imports
nothing of the project and keeps to Python 3.8. Not executed on a GPU where it was written: there is none.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from bundle_files import (
    Answer,
    BadInputError,
    Feed,
    Ranges,
    UnavailableError,
    in_words,
    length,
    range_for,
    sides_of,
    whole,
)

# TensorRT 8 reads neither opset 18 nor FP16 tensors beside Q/DQ; where a bundle serves it, this graph lies in it.
DEPLOY_FOR_TENSORRT_8 = "deploy-trt8.onnx"
WARM_S = 0.2  # a GPU that idled raises its clocks meanwhile


def first_gpu() -> tuple[Any, Any]:
    """The CUDA driver and the first GPU, whose primary context is current from now to the end."""
    try:
        from cuda_driver import load_driver

        cuda = load_driver()
    except ImportError as error:
        raise UnavailableError(f"TensorRT needs pycuda or cuda-python ({error}): for pip it is cuda-python") from error
    # Kernels are loaded when they are first run: TensorRT 8.5 and later want less memory so, and say it otherwise.
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    try:
        cuda.init()
        device = cuda.Device(0)
    except cuda.Error as error:
        raise UnavailableError(f"no GPU answers ({error}): try --runtime onnxruntime") from error
    context = device.retain_primary_context()
    context.push()
    # Held to the end. PyCUDA ends the process with an error where a context is still current then.
    atexit.register(lambda held: cuda.Context.pop(), context)
    return cuda, device


def capability_of(device: Any) -> str:
    """A GPU's compute capability, such as 8.7."""
    return ".".join(str(number) for number in device.compute_capability())


def refuse_other_device(manifest: dict[str, Any], trt: Any, device: Any) -> None:
    """Refuses a plan made for something else, before it is deserialised."""
    built = manifest.get("built_for") or {}
    here = {"system": platform.system(), "machine": platform.machine(), "library_version": trt.__version__}
    if built.get("version_compatible"):
        built = dict(built, library_version=here["library_version"])
    for key, value in here.items():
        if built.get(key, value) != value:
            raise UnavailableError(f"the plan was built for {built[key]}, this is {value}: use --build")
    wanted, found = built.get("compute_capabilities") or [], capability_of(device)
    if wanted and found not in wanted and not built.get("hardware_compatible"):
        raise UnavailableError(f"the plan was built for SM {' or '.join(wanted)}, this GPU is SM {found}: use --build")


def plan_path(manifest: dict[str, Any], module: Any, device: Any) -> Path:
    """Where the plan for this graph, library and GPU is kept: outside the bundle, whose files are sealed."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    cache = (base if base.is_absolute() else Path.home() / ".cache") / "radixrt" / "plans"
    graph = next(entry["sha256"] for entry in manifest["files"] if entry["name"] == manifest["deploy"])
    here = (module.__version__, device.name(), capability_of(device))
    free = [in_words(side) for side in sides_of(manifest)]
    made_for = "|".join(map(str, (graph, manifest["target"], manifest["batch"], manifest["precision"], *here, *free)))
    return cache / (hashlib.sha256(made_for.encode()).hexdigest()[:32] + ".plan")


class PlanEngine:
    """Runs a .plan on a GPU; its inputs and outputs have the graph's types, whatever happens inside."""

    def __init__(self, plan: Path, trt: Any, cuda: Any, runtime: str, device: Any) -> None:
        self.file, self.cuda = plan, cuda
        self.ran_by = {
            "name": runtime,
            "version": trt.__version__,
            "device": device.name(),
            "capability": capability_of(device),
        }
        self.logger = logger_of(trt, ("INTERNAL_ERROR", "ERROR"))
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(plan.read_bytes())
        if self.engine is None:
            raise UnavailableError(f"{plan} does not open with TensorRT {trt.__version__}: make one with --build")
        if ".stripped" in plan.suffixes:
            # The plan was built without weights: those of the graph that it was built from go in first.
            refitter = trt.Refitter(self.engine, self.logger)
            weights = trt.OnnxParserRefitter(refitter, self.logger)
            if not (weights.refit_from_file(str(plan.with_name("deploy.onnx"))) and refitter.refit_cuda_engine()):
                raise UnavailableError(f"{plan} does not take the weights of deploy.onnx: make one with --build")
        self.execution = self.engine.create_execution_context()
        if self.execution is None:
            raise UnavailableError(f"{plan} needs more memory than is free on this GPU: close other programs")
        self.stream = cuda.Stream()
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.inputs, self.outputs = inputs, [n for n in names if n not in inputs]
        self.dtypes = {name: kind_of(self.engine.get_tensor_dtype(name)) for name in names}
        self.buffers = {}  # type: dict[str, tuple[tuple[int, ...], Any, Any]]
        self.profile, self.graphs = 0, trt.__name__ != "tensorrt_rtx"  # that library records its own
        self.ranges = self.profiles()

    def profiles(self) -> Ranges:
        """The batch sizes of each profile of the plan."""
        size = int(self.engine.get_tensor_shape(self.inputs[0])[0])
        if size != -1:
            return [(size, size)]
        count = self.engine.num_optimization_profiles
        shapes = [self.engine.get_tensor_profile_shape(self.inputs[0], index) for index in range(count)]
        return [(int(low[0]), int(high[0])) for low, _, high in shapes]

    def buffer(self, name: str, shape: tuple[int, ...]) -> Any:
        """A pinned array and device memory of this shape, kept for the next run."""
        kept = self.buffers.get(name)
        if kept is None or kept[0] != shape:
            try:
                host = self.cuda.pagelocked_empty(shape, self.dtypes[name])
                kept = self.buffers[name] = (shape, host, self.cuda.mem_alloc(host.nbytes))
            except self.cuda.MemoryError as error:
                raise UnavailableError(f"this GPU has no room for {name} of shape {shape}: close programs") from error
            self.execution.set_tensor_address(name, int(kept[2]))
        return kept

    def prepare(self, feed: Feed) -> None:
        """Takes the narrowest profile that fits the batch, and puts the inputs on the device."""
        profile = self.ranges.index(range_for(length(feed), self.ranges))
        if profile != self.profile:
            if not self.execution.set_optimization_profile_async(profile, self.stream.handle):
                raise UnavailableError(f"the plan does not take its profile {profile}: make it again with --build")
            self.profile, self.buffers = profile, {}  # a profile knows no shapes and addresses of another
        for name in self.inputs:
            array = feed[name]
            if not self.execution.set_input_shape(name, array.shape):
                raise UnavailableError(f"the plan takes no {name} of shape {array.shape}: make it again with --build")
            _, host, device = self.buffer(name, array.shape)
            np.copyto(host, array, casting="same_kind")
            self.cuda.memcpy_htod_async(device, host, self.stream)
        for name in self.outputs:
            self.buffer(name, tuple(self.execution.get_tensor_shape(name)))

    def execute(self) -> None:
        """Runs what was prepared; it waits for nothing."""
        if not self.execution.execute_async_v3(self.stream.handle):
            raise UnavailableError("the engine failed on the device: see above, or make the plan with --build")

    def run(self, feed: Feed) -> Answer:
        """Runs one batch to every output."""
        self.prepare(feed)
        self.execute()
        for name in self.outputs:
            _, host, device = self.buffers[name]
            self.cuda.memcpy_dtoh_async(host, device, self.stream)
        self.stream.synchronize()
        return {name: np.array(self.buffers[name][1]) for name in self.outputs}

    def device_times(self, feed: Feed, rounds: int) -> tuple[list[float], bool]:
        """Times the kernels alone, between two CUDA events, with the inputs on the device already."""
        start, end, times = self.cuda.Event(), self.cuda.Event(), []
        self.prepare(feed)
        self.execute()  # the first run of a shape initialises kernels, which cannot be recorded
        self.stream.synchronize()
        graph = self.recorded()
        until = time.perf_counter() + WARM_S
        while time.perf_counter() < until:
            graph.launch() if graph else self.execute()
            self.stream.synchronize()
        for _ in range(rounds):
            start.record(self.stream)
            graph.launch() if graph else self.execute()
            end.record(self.stream)
            self.stream.synchronize()
            times.append(float(end.time_since(start)))
        if graph:
            graph.close()
        return times, graph is not None

    def close(self) -> None:
        """Frees memory, then what runs the plan, then the plan, while the GPU's context is still there."""
        self.buffers.clear()
        self.execution = self.engine = self.runtime = self.stream = None

    def recorded(self) -> Any:
        """The kernels of what was prepared as one CUDA graph; None where they cannot be recorded."""
        import cuda_graph

        driver = cuda_graph.find_driver() if self.graphs else None
        if driver is None:
            return None
        try:
            return cuda_graph.CudaGraph(driver, self.stream.handle, self.execute)
        except (cuda_graph.GraphError, UnavailableError):
            return None  # some layers cannot be recorded: they run all the same, each time piece by piece


def logger_of(trt: Any, severities: Sequence[str]) -> Any:
    """A logger for stderr: TensorRT's own writes to stdout, where --json stands. Whoever uses it keeps it alive."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # known once the library is loaded
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            name = str(severity).rpartition(".")[2]
            if name in severities:
                print(f"TensorRT {name.lower()}: {msg}", file=sys.stderr, flush=True)

    return Logger()


def kind_of(dtype: Any) -> Any:
    """The numpy type of one of TensorRT's, whose own table breaks with newer numpy."""
    name = str(dtype).rpartition(".")[2].lower()
    return np.dtype({"float": "float32", "half": "float16"}.get(name, name))


class Choices:
    """How a plan is built: a profile for each range, tactics of the sources named alone, how long, timings kept."""

    def __init__(
        self, ranges: Ranges | None = None, tactics: Any = None, timings: Path | None = None, level: int | None = None
    ) -> None:
        self.ranges, self.tactics, self.timings, self.level = ranges, tactics, timings, level


def build_plan(manifest: dict[str, Any], bundle: Path, plan: Path, trt: Any, choices: Choices | None = None) -> None:
    """Builds the plan on this device and puts it in place when it is whole."""
    started = time.perf_counter()
    with whole(plan, "--plan") as partial:  # opened now: if the disk refuses, let it not be after minutes
        partial.write_bytes(serialised_plan(manifest, bundle, trt, choices or Choices()))
    print(f"built {plan} in {time.perf_counter() - started:.1f} s", file=sys.stderr)


def serialised_plan(manifest: dict[str, Any], bundle: Path, trt: Any, choices: Choices) -> bytes:
    """Builds the plan of the bundle's graph for the GPU that is here."""
    ranges = choices.ranges
    rtx, major = manifest["target"] == "tensorrt-rtx", int(trt.__version__.split(".")[0])
    typed = rtx or major >= 10
    graph = bundle / manifest["deploy"]
    if not typed and (bundle / DEPLOY_FOR_TENSORRT_8).exists():
        graph = bundle / DEPLOY_FOR_TENSORRT_8
    kinds = trt.NetworkDefinitionCreationFlag
    logger = logger_of(trt, ("INTERNAL_ERROR", "ERROR", "WARNING"))
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what its bindings raise where the library gives no builder
        raise UnavailableError(f"{manifest['target']} {trt.__version__} does not start here: see above") from error
    network = builder.create_network(1 << int(kinds.STRONGLY_TYPED if typed else kinds.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        reason = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise UnavailableError(f"{manifest['target']} {trt.__version__} cannot take {graph.name}: {reason}")
    config = builder.create_builder_config()
    if rtx:
        # What it compiles for by itself leaves Turing out.
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    if not typed:
        # These releases have no strongly typed networks: the flags allow what Q/DQ and casts in the graph ask for.
        for name in {"fp32": (), "bf16": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}[manifest["precision"]]:
            config.set_flag(getattr(trt.BuilderFlag, name))
    if choices.tactics:
        choose_tactics(config, trt, choices.tactics)
    if choices.level is not None:
        choose_level(config, trt, choices.level)
    if choices.timings:
        if rtx:
            raise BadInputError("TensorRT for RTX times nothing while it builds: leave --timing-cache out")
        load_timings(config, choices.timings)
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    shape = tuple(tensors[0].shape)
    fixed, free = shape[0] != -1, any(-1 in tuple(tensor.shape)[1:] for tensor in tensors)
    if fixed and any(size != shape[0] for sizes in ranges or () for size in sizes):
        raise BadInputError(f"{graph.name} takes batches of {shape[0]} and no others: leave --batch out")
    for low, high in () if fixed and not free else ranges or [manifest["batch"]]:
        profile = builder.create_optimization_profile()
        for tensor in tensors:
            ends = zip((low, high, high), profile_sides(tuple(tensor.shape)[1:], sides_of(manifest)))
            profile.set_shape(tensor.name, *((count, *sides) for count, sides in ends))
        config.add_optimization_profile(profile)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise UnavailableError(f"{manifest['target']} {trt.__version__} could not build the plan: see above")
    if choices.timings:
        with whole(choices.timings, "--timing-cache") as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(data)


def profile_sides(sides: Sequence[int], ranges: Sequence[Any]) -> list[tuple[int, ...]]:
    """An input's sides at the least, at the size that it is tuned for, and at the most; free ones are -1."""
    free = [side for side in ranges if side.min != side.max]
    found = []
    for share in (0.0, 0.5, 1.0):
        sizes = iter([side.min + int((side.max - side.min) * share) // side.step * side.step for side in free])
        found.append(tuple(next(sizes, -1) if size == -1 else size for size in sides))
    return found


def choose_tactics(config: Any, trt: Any, names: Sequence[str]) -> None:
    """Leaves only tactics of these sources, such as of a machine that lacks cuBLAS and cuDNN; none for ``none``."""
    known = [name for name in dir(trt.TacticSource) if name.isupper()]
    wanted = [name.upper() for name in names if name.lower() != "none"]
    for name in wanted:
        if name not in known:
            raise BadInputError(f"TensorRT {trt.__version__} has no tactics of {name}: name {', '.join(known)} or none")
    if not config.set_tactic_sources(sum(1 << int(getattr(trt.TacticSource, name)) for name in wanted)):
        raise UnavailableError(f"TensorRT {trt.__version__} does not build with tactics of {', '.join(names)} alone")


def choose_level(config: Any, trt: Any, level: int) -> None:
    """Says how long the builder may search: 0 to 5, of which 3 is its own. 8.5 knows a short and a long search only."""
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = level
    elif level < 3 and hasattr(trt.BuilderFlag, "ENABLE_TACTIC_HEURISTIC"):
        config.set_flag(trt.BuilderFlag.ENABLE_TACTIC_HEURISTIC)


def load_timings(config: Any, file: Path) -> None:
    """Gives the builder the timings of earlier builds; those of another device or version are left aside."""
    try:
        known = file.read_bytes() if file.exists() else b""
    except OSError as error:
        raise BadInputError(f"{file} cannot be read ({error.strerror}): name another file") from error
    for timings in dict.fromkeys((known, b"")):
        cache = config.create_timing_cache(timings)
        if cache is not None and config.set_timing_cache(cache, False):
            if timings != known:
                print(f"{file} holds timings of another device or version: they are taken anew", file=sys.stderr)
            return
    raise UnavailableError("this TensorRT keeps no timings: leave --timing-cache out")
