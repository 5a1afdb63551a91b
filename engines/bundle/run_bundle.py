#!/usr/bin/env python3
"""Runs images through the bundle that this file lies in. It stands alone.

    python3 run.py photo.jpg              what the network answers to one image, or to several, or to a folder
    python3 run.py --bench photo.jpg      latency as well; --batch 1,8 of these sizes
    python3 run.py --input x.npy --output y.npz           arrays in (.npz by name), every output out; needs no Pillow
    python3 run.py --build                makes this device's TensorRT plan from deploy.onnx (a Jetson starts here)
    python3 run.py --build --batch 1,8,16..64             with a profile for each batch size or range
    python3 run.py --require-signature maker.pub photo.jpg    only if the owner of that key made the bundle

Needs Python 3.8, numpy and the engine's own runtime: onnxruntime, openvino, or tensorrt or tensorrt_rtx with pycuda or
cuda-python; for pictures Pillow, and with --require-signature also cryptography. Beside it lie answers.py, which says
what outputs mean, pixels.py, which prepares the images as they were prepared for calibration, and cuda_driver.py and
cuda_graph.py, through which a plan reaches the GPU.
Exit codes: 0 done; 2 bad usage or bad input; 4 the engine cannot run on this machine.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import importlib
import json
import os
import platform
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

# A bundle's files are sealed: importing the module beside this file must not leave a __pycache__ there.
sys.dont_write_bytecode = True
try:
    import numpy as np
except ImportError as error:
    # Help needs none; whatever else is asked for is refused when it is known what that is.
    np = None  # type: ignore[assignment]
    MISSING = str(error)
else:
    MISSING = ""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# TensorRT 8 reads neither opset 18 nor FP16 tensors beside Q/DQ; where a bundle serves it, this graph lies in it.
DEPLOY_FOR_TENSORRT_8 = "deploy-trt8.onnx"
MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
WARM_S = 0.2  # a GPU that idled raises its clocks meanwhile
PRECISIONS = (None, "f32", "bf16")  # of OpenVINO; None stands in bundles of other engines, and in old ones
Answer = Dict[str, Any]  # every output by name, (N, ...) each
Feed = Dict[str, Any]  # every input by name, (N, ...) each
Run = Callable[[Feed], Answer]
Ranges = List[Tuple[int, int]]  # the smallest and the largest batch of each profile


class BadInputError(Exception):
    """What the user gave cannot be used (exit 2)."""

    exit_code = 2


class UnavailableError(Exception):
    """The engine cannot run on this machine (exit 4)."""

    exit_code = 4


def check_signature(bundle: Path, data: bytes, key_file: Path) -> None:
    """Refuses a bundle whose manifest, and through it every file, the owner of an Ed25519 key did not sign."""
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise UnavailableError(f"a signature needs cryptography ({error}): for pip it is cryptography") from error
    try:
        pem, key = key_file.read_bytes(), None
    except OSError as error:
        raise BadInputError(f"the key {key_file} cannot be read ({error.strerror}): check its name") from error
    for load in (serialization.load_pem_public_key, serialization.load_ssh_public_key):
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            key = key or load(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise BadInputError(f"{key_file} is not an Ed25519 public key: make one with openssl pkey -pubout")
    signature = bundle / "manifest.sig"
    if not signature.is_file():
        raise BadInputError(f"{bundle} is not signed, and a signature is required: ask its maker for a signed one")
    try:
        key.verify(signature.read_bytes()[:4096], data)
    except InvalidSignature as error:
        raise BadInputError(
            f"{bundle} was not signed with the key of {key_file}, or was changed since: get it again from its maker"
        ) from error


def read_manifest(bundle: Path, key_file: Path | None = None) -> dict[str, Any]:
    """Reads the manifest and holds every file against its SHA-256; ``key_file`` is of the one who must have signed."""
    path = bundle / "manifest.json"
    try:
        data = path.read_bytes()
        if key_file is not None:
            check_signature(bundle, data, key_file)
        manifest = json.loads(data.decode("utf-8"))
        if manifest.get("format") != "radixrt-bundle" or manifest.get("schema_version") != 1:
            raise BadInputError(f"{path} is of a format that this runner does not know: use the run.py made with it")
        listed = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
        for name, expected in listed.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise BadInputError(f"{path} names the file {name}, which lies outside it: copy the bundle again")
            check_file(bundle / name, expected)
        # A bundle that leaves its plan to the device has no engine.
        if not {manifest["deploy"], manifest.get("engine") or manifest["deploy"]} <= set(listed):
            raise BadInputError(f"{path} lists no hash for its engine or its graph: copy the bundle again")
        low, high = manifest["batch"]
        if manifest.get("inference_precision") not in PRECISIONS:
            raise BadInputError(
                f"{path} asks for a precision that this runner does not know: use the run.py made with it"
            )
        prepared = manifest["preprocessing"]
        for side in sides_of(manifest):
            if not (1 <= side.min <= side.max and side.step >= 1):
                raise ValueError("sides")
        if not 1 <= low <= high or (prepared is not None and len(prepared["input_size"]) != 3):
            raise ValueError("batch or input_size")
        # What is only read later must be there too.
        MODULES[manifest["target"]], manifest["precision"], list(manifest["labels"]), manifest["outputs"][0]["name"]
        for tensor in (manifest["inputs"][0], *manifest["inputs"]):
            tensor["name"], np.dtype(tensor["dtype"]), list(tensor["shape"])
    except OSError as error:
        raise BadInputError(f"{error.filename} cannot be read ({error.strerror}): copy the bundle again") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{path} is damaged: copy the bundle again") from error
    return manifest  # type: ignore[no-any-return]


def check_file(path: Path, expected: str) -> None:
    """Refuses a file that is not what the build wrote."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    if digest.hexdigest() != expected:
        raise BadInputError(f"{path} is not what the build wrote (its SHA-256 differs): copy the bundle again")


def find_images(arguments: Sequence[str]) -> list[Path]:
    """The images named, folders searched through."""
    found = []  # type: list[Path]
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise BadInputError(f"{path} holds no image: name a folder with {', '.join(SUFFIXES)} files")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise BadInputError(f"{path} does not exist: name an image or a folder of images")
    return found


def load_image(path: Path, spec: Any, size: str | None = None) -> np.ndarray:
    """Reads one image as the input tensor's (C, H, W), in the ``size`` asked for where its sides are free."""
    try:
        import pixels
    except ImportError as error:
        raise UnavailableError(f"pictures need pillow ({error}): install it, or give arrays with --input") from error
    try:
        image = pixels.open_image(path, spec.input_size[0])
        if size is not None:
            chosen = pixels.nearest_size(image.size, *spec.sides) if size == "fit" else size_of(size, spec.sides)
            spec = argparse.Namespace(**dict(vars(spec), input_size=(spec.input_size[0], *chosen)))
        return pixels.preprocess_image(image, spec)  # type: ignore[no-any-return]
    except pixels.ImageUnusableError as error:
        raise BadInputError(f"{path} is not an image that can be read ({error}): remove it or save it again") from error


def sides_of(manifest: dict[str, Any]) -> list[Any]:
    """The ranges of the image's height and width, where the engine leaves them free; else nothing."""
    ranges = manifest.get("sides")
    return [] if ranges is None else [argparse.Namespace(**ranges[name]) for name in ("height", "width")]


def in_words(side: Any) -> str:
    """A range as the build's options have it."""
    return f"{side.min}..{side.max}:{side.step}" if side.min != side.max else str(side.min)


def takes(side: Any, size: int) -> bool:
    """Whether a size is one of a range."""
    return bool(side.min <= size <= side.max and (size - side.min) % side.step == 0)


def size_of(text: str, sides: Sequence[Any]) -> tuple[int, ...]:
    """Reads ``480x640``, a height and a width that the engine takes."""
    numbers = tuple(int(number) for number in text.split("x") if number.isdigit())
    if not sides:
        raise BadInputError("the engine takes images of one size: leave --size out")
    if len(numbers) != 2 or not all(takes(side, number) for side, number in zip(sides, numbers)):
        ranges = " x ".join(map(in_words, sides))
        raise BadInputError(f"{text!r} is no size of this engine: write one of {ranges} (480x640), or fit")
    return numbers


def load_tensors(path: Path, manifest: dict[str, Any]) -> Feed:
    """Reads prepared inputs, (N, ...) each: from a .npz file by name, or the one input from a .npy or .npz file."""
    specs = {tensor["name"]: tensor for tensor in manifest["inputs"]}
    try:
        content = np.load(str(path), allow_pickle=False)
        found = {"": content} if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
    except OSError as error:
        raise BadInputError(f"{path} cannot be read ({error.strerror or error}): name a .npy or .npz file") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} is not a .npy or .npz file of numbers: write it with numpy.save") from error
    if len(specs) == 1 == len(found):
        found = dict(zip(specs, found.values()))
    for name in specs:
        if name not in found:
            has = ", ".join(filter(None, found)) or ("one array" if found else "nothing")
            raise BadInputError(f"{path} holds {has}: name the array {name!r} of a .npz file")
    sides = sides_of(manifest)
    feed = {name: fitting(path, found[name], spec, sides) for name, spec in specs.items()}
    counts = {name: len(array) for name, array in feed.items()}
    if len(set(counts.values())) > 1:
        raise BadInputError(f"{path} has different numbers of samples ({counts}): give each input as many rows")
    return feed


def fitting(path: Path, array: np.ndarray, spec: dict[str, Any], sides: Sequence[Any] = ()) -> np.ndarray:
    """An array as an input takes it; one sample without a first axis is a batch of one."""
    name, shape, dtype = spec["name"], tuple(spec["shape"][1:]), np.dtype(spec["dtype"])

    def alike(sides: Sequence[int]) -> bool:
        return len(sides) == len(shape) and all(want in (-1, got) for want, got in zip(shape, sides))

    tensors = array[None] if alike(array.shape) and not alike(array.shape[1:]) else array
    kinds = {"u": "i"}
    if kinds.get(tensors.dtype.kind, tensors.dtype.kind) != kinds.get(dtype.kind, dtype.kind):
        what = "floats, normalised as manifest.json says" if dtype.kind == "f" else str(dtype)
        raise BadInputError(f"{path} holds {tensors.dtype} for {name}: give {what}")
    if not tensors.ndim or not alike(tensors.shape[1:]) or not len(tensors):
        wanted = ", ".join(["N", *("any" if side == -1 else str(side) for side in shape)])
        raise BadInputError(f"{path} has shape {array.shape} for {name}: the engine takes ({wanted})")
    free = [side for side in sides if side.min != side.max] if len(shape) == 3 else []
    for size, side in zip((got for want, got in zip(shape, tensors.shape[1:]) if want == -1), free):
        if not takes(side, size):
            raise BadInputError(f"{path} has a side of {size} for {name}: the engine takes {in_words(side)}, resize it")
    return np.ascontiguousarray(tensors, dtype)


def write_outputs(path: Path, answers: Sequence[Answer], bundle: Path) -> None:
    """Writes every output of all images as a .npz file, whole or not at all."""
    if bundle.resolve() in path.resolve().parents:
        raise BadInputError(f"{path} lies in the bundle, whose files are sealed: name another folder for --output")
    arrays = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}  # type: Answer
    with whole(path, "--output") as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def load_module(runtime: str) -> Any:
    """Imports an engine's runtime."""
    try:
        module = importlib.import_module(MODULES[runtime])
        # An empty folder of that name, as type stubs leave one, is imported without complaint.
        if not hasattr(module, "__version__"):
            raise ImportError("only an empty package of that name is here")
        return module
    except ImportError as error:
        raise UnavailableError(f"{runtime} is not installed ({error}): for pip it is {MODULES[runtime]}") from error


def open_onnxruntime(engine: Path, outputs: Sequence[str]) -> Run:
    """Opens an .onnx file on the CPU, or on CUDA where its provider is installed."""
    ort = load_module("onnxruntime")
    if hasattr(ort, "disable_telemetry_events"):  # builds of device makers may lack it
        ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # The same numbers on every CPU, and no slow path for denormals: what the build measured with.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in ort.get_available_providers()]
    try:
        session = ort.InferenceSession(str(engine), options, providers=providers)
    except Exception as error:  # its exception classes are not public
        reason = " ".join(str(error).split())[:200]
        raise UnavailableError(f"{engine} does not open with onnxruntime {ort.__version__}: {reason}") from error
    return lambda feed: dict(zip(outputs, map(np.asarray, session.run(None, feed))))


def open_openvino(engine: Path, outputs: Sequence[str], precision: str = "f32") -> Run:
    """Opens an .xml and .bin pair, or an .onnx file, on the CPU."""
    openvino = load_module("openvino")
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UnavailableError(
            f"{engine} computes in BF16, which this processor has not: build it with -p fp32 or int8"
        )
    try:
        # By itself it takes bfloat16 where the processor has it, and gives other numbers than the build measured.
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        model = core.compile_model(str(engine), "CPU", config)
    except RuntimeError as error:
        raise UnavailableError(f"{engine} does not open with openvino {openvino.__version__}: {error}") from error

    def run(feed: Feed) -> Answer:
        found = model(feed)
        return {name: np.asarray(found[output]) for name, output in zip(outputs, model.outputs)}

    return run


class Engine:
    """An open engine with its file, and the ranges of batch sizes that it takes."""

    def __init__(self, file: Path, run: Run, ranges: Ranges, ran_by: dict[str, str]) -> None:
        self.file, self.run, self.ranges, self.ran_by = file, run, ranges, ran_by

    def device_times(self, feed: Feed, rounds: int) -> tuple[list[float], bool]:
        """Milliseconds of each round on the device's own clock, and whether a CUDA graph was replayed.

        There are none where the device has no clock beside the host's.
        """
        return [], False

    def close(self) -> None:
        """Lets go of what the engine holds on a device."""


class TensorRt(Engine):
    """Runs a .plan on a GPU; its inputs and outputs have the graph's types, whatever happens inside."""

    def __init__(self, plan: Path, trt: Any, cuda: Any, ran_by: dict[str, str]) -> None:
        self.cuda = cuda
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
        super().__init__(plan, self.answer, self.profiles(), ran_by)

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

    def answer(self, feed: Feed) -> Answer:
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


def length(feed: Feed) -> int:
    """How many samples there are."""
    return len(next(iter(feed.values())))


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


@contextlib.contextmanager
def whole(path: Path, option: str) -> Iterator[Path]:
    """Gives an empty file to write, which takes the place of ``path`` when it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        yield partial
        partial.replace(path)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written ({error.strerror}): name another file with {option}") from error
    finally:
        if partial.exists():
            partial.unlink()


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


def range_for(size: int, ranges: Ranges) -> tuple[int, int]:
    """The range that takes a batch with the fewest copies, and of those the narrowest; the largest where none does."""
    fitting = [sizes for sizes in ranges if size <= sizes[1]] or [max(ranges, key=lambda sizes: sizes[1])]
    return min(fitting, key=lambda sizes: (max(0, sizes[0] - size), sizes[1] - sizes[0]))


def batches(
    count: int, load: Callable[[slice], Feed], ranges: Ranges, at_once: int | None = None
) -> Iterator[tuple[slice, Feed]]:
    """Samples in batches that the engine takes, or ``at_once``; one that is too small is filled up with copies."""
    largest = at_once or max(high for _, high in ranges)
    for start in range(0, count, largest):
        part = slice(start, min(start + largest, count))
        feed = load(part)
        missing = max(0, range_for(length(feed), ranges)[0] - length(feed))
        yield part, {name: np.concatenate([array, *[array[-1:]] * missing]) for name, array in feed.items()}


def bench(engine: Engine, feed: Feed, rounds: int) -> dict[str, Any]:
    """Latency of one batch in milliseconds: from numpy array to numpy array, and on the device's own clock."""
    on_device, graph = engine.device_times(feed, rounds)
    for _ in range(max(3, rounds // 10)):
        engine.run(feed)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        engine.run(feed)
        times.append((time.perf_counter() - started) * 1e3)
    summary = {"batch": length(feed), "rounds": rounds}  # type: dict[str, Any]
    summary.update(percentiles(times, ""))
    summary["images_per_s"] = round(1e3 * length(feed) / max(summary["p50_ms"], 1e-3), 1)
    if on_device:
        summary.update(percentiles(on_device, "device_"), cuda_graph=graph)
    return dict(summary, samples_ms=[round(time, 4) for time in times])


def percentiles(times: Sequence[float], prefix: str) -> dict[str, float]:
    """The usual ones, in milliseconds."""
    return {f"{prefix}p{q}_ms": round(float(np.percentile(times, q)), 4) for q in (50, 90, 95, 99)}


def of_size(feed: Feed, ranges: Ranges | None, engine: Engine) -> list[Feed]:
    """The batch that there is, or its samples again and again in the sizes that were asked for."""
    if not ranges:
        return [feed]
    sizes = sorted({high for _, high in ranges})
    for size in sizes:
        if not any(low <= size <= high for low, high in engine.ranges):
            takes = ", ".join(f"{low}" if low == high else f"{low}..{high}" for low, high in engine.ranges)
            raise BadInputError(f"the engine takes no batch of {size}, only of {takes}: leave it out of --batch")
    return [{name: np.resize(array, (size, *array.shape[1:])) for name, array in feed.items()} for size in sizes]


def batch_ranges(text: str) -> Ranges:
    """Reads ``1,8,16..64``."""
    ranges = []
    for part in text.split(","):
        low, _, high = part.partition("..")
        try:
            ranges.append((int(low), int(high or low)))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a batch size nor a range such as 16..64") from None
        if not 1 <= ranges[-1][0] <= ranges[-1][1]:
            raise argparse.ArgumentTypeError(f"{part!r} is no range of batch sizes")
    return ranges


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Runs images through this bundle; needs no RadixRT and no PyTorch.")
    parser.add_argument("images", nargs="*", help="images, or folders of them")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent, help="default: this folder")
    parser.add_argument("--runtime", choices=sorted(MODULES), help="default: the one that the bundle was made for")
    parser.add_argument("--build", action="store_true", help="make the TensorRT plan for this device from deploy.onnx")
    parser.add_argument("--plan", type=Path, help="where --build puts the plan (default: the user's cache)")
    parser.add_argument(
        "--batch",
        metavar="SIZES",
        type=batch_ranges,
        help="--build: 1,8,16..64 makes a profile of each; --bench: each is timed (of a range its largest)",
    )
    parser.add_argument(
        "--tactic-sources",
        metavar="NAMES",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        help="--build: tactics of these alone, such as EDGE_MASK_CONVOLUTIONS,JIT_CONVOLUTIONS, or none",
    )
    parser.add_argument(
        "--timing-cache", metavar="FILE", type=Path, help="--build: timings of earlier builds, taken and kept"
    )
    parser.add_argument(
        "--builder-level", metavar="0..5", type=int, choices=range(6), help="--build: how long the builder may search"
    )
    parser.add_argument("--input", metavar="FILE", type=Path, help="prepared inputs: .npz by name, or .npy for one")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write every output to this .npz file")
    parser.add_argument(
        "--size", metavar="SIZE", help="of pictures, where sides are free: 480x640 (height, width), or fit"
    )
    parser.add_argument("--bench", action="store_true", help="measure latency, on the first batch or those of --batch")
    parser.add_argument("--rounds", type=int, default=100, help="how many times --bench runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--require-signature", metavar="KEY", type=Path, help="an Ed25519 public key of the maker")
    options = parser.parse_args(argv)
    given = bool(options.images) + bool(options.input)
    if given == 2:
        parser.error("give images or --input, not both")
    if not given and (options.output or options.bench or not options.build):
        parser.error("name an image or a folder of images, or an array with --input, or ask for --build")
    if options.batch and not (options.build or options.bench):
        parser.error("--batch is for --build and --bench")
    steers = options.tactic_sources or options.timing_cache or options.builder_level is not None
    if steers and not options.build:
        parser.error("--tactic-sources, --timing-cache and --builder-level are for --build")
    return options


def open_engine(options: argparse.Namespace, manifest: dict[str, Any]) -> Engine:
    """Opens the engine that was asked for, making the plan first where that was asked for."""
    bundle, engine = options.bundle, options.bundle / (manifest.get("engine") or manifest["deploy"])
    runtime = options.runtime or manifest["target"]
    if options.build and not runtime.startswith("tensorrt"):
        runtime = "tensorrt"
    if runtime != manifest["target"]:
        # Another runtime than the bundle's own starts from the graph.
        manifest = dict(manifest, target=runtime, built_for=None)
        engine = bundle / manifest["deploy"]
    names = [output["name"] for output in manifest["outputs"]]
    if runtime in ("onnxruntime", "openvino"):
        if runtime == "onnxruntime":
            run = open_onnxruntime(engine, names)
        else:
            run = open_openvino(engine, names, manifest.get("inference_precision") or "f32")
        used = {"name": runtime, "version": sys.modules[MODULES[runtime]].__version__}
        return Engine(engine, run, [tuple(manifest["batch"])], used)
    trt = load_module(runtime)
    cuda, device = first_gpu()
    plan = options.plan or plan_path(manifest, trt, device)
    if options.build:
        choices = Choices(options.batch, options.tactic_sources, options.timing_cache, options.builder_level)
        build_plan(manifest, bundle, plan, trt, choices)
    elif not plan.exists():
        if engine.suffix == ".onnx":
            raise UnavailableError(f"the bundle holds no plan for {runtime}: make one for this device with --build")
        refuse_other_device(manifest, trt, device)
        plan = engine
    used = {"name": runtime, "version": trt.__version__, "device": device.name(), "capability": capability_of(device)}
    opened = TensorRt(plan, trt, cuda, used)
    atexit.register(opened.close)  # before the context goes, which was registered first
    return opened


def find_inputs(options: argparse.Namespace, manifest: dict[str, Any]) -> tuple[list[str], Callable[[slice], Feed]]:
    """The names of the samples, and what gives some of them as inputs."""
    if options.input:
        tensors = load_tensors(options.input, manifest)
        names = [f"{options.input}[{index}]" for index in range(length(tensors))]
        return names, lambda part: {name: array[part] for name, array in tensors.items()}
    inputs = [tensor["name"] for tensor in manifest["inputs"]]
    if options.images and manifest["preprocessing"] is None:
        raise BadInputError(f"the engine takes arrays ({', '.join(inputs)}), not pictures: give --input x.npz")
    images = find_images(options.images)
    spec = argparse.Namespace(**(manifest["preprocessing"] or {}), sides=sides_of(manifest))
    if options.size is not None and (options.size != "fit" or not spec.sides):
        size_of(options.size, spec.sides)
    return [str(path) for path in images], lambda part: {
        inputs[0]: np.stack([load_image(path, spec, options.size) for path in images[part]])
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = parse(argv)
    try:
        if MISSING:
            raise UnavailableError(f"{MISSING}: run.py needs `pip install numpy pillow` and the engine's own runtime")
        manifest = read_manifest(options.bundle, options.require_signature)
        names, load = find_inputs(options, manifest)
        engine = open_engine(options, manifest)
        results, answers = [], []  # type: list[dict[str, Any]], list[Answer]
        import answers as meanings  # which lies beside this file

        timing = []  # type: list[dict[str, Any]]
        task, first = manifest.get("task", "classify"), manifest["outputs"][0]
        head = meanings.Head(first["name"], first.get("kind"), manifest["labels"])
        # Pictures of sizes of their own make no batch.
        at_once = 1 if options.size == "fit" and not options.input else None
        for part, feed in batches(len(names), load, engine.ranges, at_once):
            answer = {name: array[: part.stop - part.start] for name, array in engine.run(feed).items()}
            for i, name in enumerate(names[part]):
                found = meanings.answer(task, {n: array[i : i + 1] for n, array in answer.items()}, head)
                results.append(dict({"image": name, "said": meanings.lines(found)}, **meanings.plain(found)))
            if options.output:
                answers.append(answer)
            if options.bench and not timing:
                sizes = of_size(feed, options.batch, engine)
                timing = [bench(engine, one, max(options.rounds, 1)) for one in sizes]
        if options.output:
            write_outputs(options.output, answers, options.bundle)
        show(engine, results, timing, options.json)
        sys.stdout.flush()
    except (BadInputError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `run.py folder/ | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def show(engine: Engine, results: Sequence[dict[str, Any]], timing: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Prints what was found."""
    said = [result.pop("said") for result in results]
    if as_json:
        found = {"engine": str(engine.file), "runtime": engine.ran_by, "results": results, "latency": timing}
        print(json.dumps(found, indent=2))
        return
    for result, lines in zip(results, said):
        print(result["image"])
        for line in lines:
            print(f"  {line}")
    for row in timing:
        print("latency  " + "  ".join(f"{key} {value}" for key, value in row.items() if key != "samples_ms"))


if __name__ == "__main__":
    sys.exit(main())
