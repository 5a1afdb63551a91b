#!/usr/bin/env python3
"""Classifies images with the bundle that this file lies in. It stands alone.

    python3 run.py photo.jpg              top-5 of one image, or of several, or of a folder
    python3 run.py --bench photo.jpg      latency as well
    python3 run.py --build                makes this device's TensorRT plan from deploy.onnx (a Jetson starts here)
    python3 run.py --require-signature maker.pub photo.jpg    only if the owner of that key made the bundle

Needs Python 3.8, numpy, Pillow and the engine's own runtime: onnxruntime, openvino, or tensorrt or tensorrt_rtx with
pycuda; with --require-signature also cryptography. Beside it lies pixels.py, which prepares the images as they were
prepared for calibration.
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
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

# A bundle's files are sealed: importing the module beside this file must not leave a __pycache__ there.
sys.dont_write_bytecode = True
try:
    import numpy as np
    import pixels
except ImportError as error:
    # Help needs neither; whatever else is asked for is refused when it is known what that is.
    np = pixels = None  # type: ignore[assignment]
    MISSING = str(error)
else:
    MISSING = ""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
# TensorRT 8 reads neither opset 18 nor FP16 tensors beside Q/DQ; where a bundle serves it, this graph lies in it.
DEPLOY_FOR_TENSORRT_8 = "deploy-trt8.onnx"
MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
PRECISIONS = (None, "f32")  # of OpenVINO; None stands in bundles of other engines, and in old ones
Run = Callable[[Any], Any]  # from an array (N, C, H, W) to logits (N, classes)


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
        if not 1 <= low <= high or len(manifest["preprocessing"]["input_size"]) != 3:
            raise ValueError("batch or input_size")
        # What is only read later must be there too.
        MODULES[manifest["target"]], manifest["precision"], list(manifest["labels"]), manifest["outputs"][0]["name"]
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


def load_image(path: Path, spec: Any) -> np.ndarray:
    """Reads one image as the input tensor's (C, H, W)."""
    try:
        return pixels.preprocess_image(pixels.open_image(path, spec.input_size[0]), spec)  # type: ignore[no-any-return]
    except pixels.ImageUnusableError as error:
        raise BadInputError(f"{path} is not an image that can be read ({error}): remove it or save it again") from error


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


def open_onnxruntime(engine: Path) -> Run:
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
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def open_openvino(engine: Path) -> Run:
    """Opens an .xml and .bin pair, or an .onnx file, on the CPU."""
    openvino = load_module("openvino")
    try:
        # By itself it takes bfloat16 where the processor has it, and gives other numbers than the build measured.
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.Core().compile_model(str(engine), "CPU", config)
    except RuntimeError as error:
        raise UnavailableError(f"{engine} does not open with openvino {openvino.__version__}: {error}") from error
    return lambda batch: np.asarray(model([batch])[model.output(0)])


class TensorRt:
    """Runs a .plan on a GPU; its input and outputs are float32, whatever happens inside. Only ``logits`` are read."""

    def __init__(self, plan: Path, trt: Any, cuda: Any, logits: str) -> None:
        self.cuda = cuda
        self.logger = trt.Logger(trt.Logger.ERROR)
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
        self.stream = cuda.Stream()
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        inputs = [n for n in names if self.engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self.input, self.outputs, self.logits = inputs[0], [n for n in names if n not in inputs], logits
        self.buffers = {}  # type: dict[str, tuple[tuple[int, ...], Any, Any]]

    def buffer(self, name: str, shape: tuple[int, ...]) -> Any:
        """A pinned array and device memory of this shape, kept for the next run."""
        kept = self.buffers.get(name)
        if kept is None or kept[0] != shape:
            host = self.cuda.pagelocked_empty(shape, np.float32)
            kept = self.buffers[name] = (shape, host, self.cuda.mem_alloc(host.nbytes))
            self.execution.set_tensor_address(name, int(kept[2]))
        return kept

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Runs (N, C, H, W) to logits (N, classes)."""
        if not self.execution.set_input_shape(self.input, batch.shape):
            raise UnavailableError(f"the plan takes no images of shape {batch.shape}: make it again with --build")
        _, host_in, device_in = self.buffer(self.input, batch.shape)
        outputs = {n: self.buffer(n, tuple(self.execution.get_tensor_shape(n))) for n in self.outputs}
        _, host_out, device_out = outputs[self.logits]
        np.copyto(host_in, batch)
        self.cuda.memcpy_htod_async(device_in, host_in, self.stream)
        if not self.execution.execute_async_v3(self.stream.handle):
            raise UnavailableError("the engine failed on the device: see above, or make the plan with --build")
        self.cuda.memcpy_dtoh_async(host_out, device_out, self.stream)
        self.stream.synchronize()
        return np.array(host_out)


def first_gpu() -> tuple[Any, Any]:
    """PyCUDA's driver module and the first GPU, whose primary context is current from now to the end."""
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise UnavailableError(f"TensorRT needs pycuda ({error}): for pip it is pycuda") from error
    try:
        cuda.init()
        device = cuda.Device(0)
    except cuda.Error as error:
        raise UnavailableError(f"no GPU answers ({error}): try --runtime onnxruntime") from error
    device.retain_primary_context().push()
    # PyCUDA ends the process with an error where a context is still current at its end.
    atexit.register(cuda.Context.pop)
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
    made_for = "|".join(map(str, (graph, manifest["target"], manifest["batch"], manifest["precision"], *here)))
    return cache / (hashlib.sha256(made_for.encode()).hexdigest()[:32] + ".plan")


def build_plan(manifest: dict[str, Any], bundle: Path, plan: Path, trt: Any) -> None:
    """Builds the plan on this device and puts it in place when it is whole."""
    started = time.perf_counter()
    partial = plan.with_name(f"{plan.name}.{os.getpid()}")
    try:
        plan.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # the build takes minutes: if the disk refuses, let it be now
        partial.write_bytes(serialised_plan(manifest, bundle, trt))
        partial.replace(plan)
    except OSError as error:
        raise BadInputError(f"{plan} cannot be written ({error.strerror}): name another file with --plan") from error
    finally:
        if partial.exists():
            partial.unlink()
    print(f"built {plan} in {time.perf_counter() - started:.1f} s", file=sys.stderr)


def serialised_plan(manifest: dict[str, Any], bundle: Path, trt: Any) -> bytes:
    """Builds the plan of the bundle's graph for the GPU that is here."""
    rtx, major = manifest["target"] == "tensorrt-rtx", int(trt.__version__.split(".")[0])
    typed = rtx or major >= 10
    graph = bundle / manifest["deploy"]
    if not typed and (bundle / DEPLOY_FOR_TENSORRT_8).exists():
        graph = bundle / DEPLOY_FOR_TENSORRT_8
    kinds = trt.NetworkDefinitionCreationFlag
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
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
        for name in {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}[manifest["precision"]]:
            config.set_flag(getattr(trt.BuilderFlag, name))
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)
    if -1 in shape:
        low, high = manifest["batch"]
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, (low, *shape[1:]), (high, *shape[1:]), (high, *shape[1:]))
        config.add_optimization_profile(profile)
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise UnavailableError(f"{manifest['target']} {trt.__version__} could not build the plan: see above")
    return bytes(data)


def batches(images: Sequence[Path], manifest: dict[str, Any]) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Images in batches that the engine takes; the last one is filled up with copies where the batch is fixed."""
    low, high = manifest["batch"]
    spec = argparse.Namespace(**manifest["preprocessing"])
    for start in range(0, len(images), high):
        paths = list(images[start : start + high])
        tensors = [load_image(path, spec) for path in paths]
        tensors += [tensors[-1]] * (low - len(tensors))
        yield paths, np.stack(tensors)


def confidences(values: np.ndarray, kind: str | None) -> np.ndarray:
    """How sure each class is, from 0 to 1: what a network ends in is as the manifest says, and else logits."""
    numbers = values.astype(np.float64)
    if kind in ("probabilities", "scores"):
        return numbers
    shares = np.exp(numbers if kind == "log-probabilities" else numbers - numbers.max())
    return shares if kind == "log-probabilities" else shares / shares.sum()


def top5(values: np.ndarray, labels: Sequence[str], kind: str | None = None) -> list[dict[str, Any]]:
    """The five likeliest classes of one image."""
    shares = confidences(values, kind)
    best = np.argsort(-shares, kind="stable")[:5].tolist()
    names = [labels[i] if i < len(labels) else str(i) for i in best]
    return [{"class": i, "label": name, "probability": round(float(shares[i]), 6)} for i, name in zip(best, names)]


def bench(run: Run, batch: np.ndarray, rounds: int) -> dict[str, float]:
    """Latency of one batch in milliseconds, from numpy array to numpy array."""
    for _ in range(max(3, rounds // 10)):
        run(batch)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run(batch)
        times.append((time.perf_counter() - started) * 1e3)
    summary = {f"p{q}_ms": round(float(np.percentile(times, q)), 3) for q in (50, 90, 95, 99)}
    summary.update(batch=len(batch), rounds=rounds, images_per_s=round(1e3 * len(batch) / summary["p50_ms"], 1))
    return summary


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Classifies images with this bundle; needs no RadixRT and no PyTorch.")
    parser.add_argument("images", nargs="*", help="images, or folders of them")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).resolve().parent, help="default: this folder")
    parser.add_argument("--runtime", choices=sorted(MODULES), help="default: the one that the bundle was made for")
    parser.add_argument("--build", action="store_true", help="make the TensorRT plan for this device from deploy.onnx")
    parser.add_argument("--plan", type=Path, help="where --build puts the plan (default: the user's cache)")
    parser.add_argument("--bench", action="store_true", help="measure latency on the first batch")
    parser.add_argument("--rounds", type=int, default=100, help="how many times --bench runs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--require-signature", metavar="KEY", type=Path, help="an Ed25519 public key of the maker")
    options = parser.parse_args(argv)
    if not options.images and not options.build:
        parser.error("name an image or a folder of images, or ask for --build")
    return options


def open_engine(options: argparse.Namespace, manifest: dict[str, Any]) -> Run:
    """Opens the engine that was asked for, making the plan first where that was asked for."""
    bundle, engine = options.bundle, options.bundle / (manifest.get("engine") or manifest["deploy"])
    runtime = options.runtime or manifest["target"]
    if options.build and not runtime.startswith("tensorrt"):
        runtime = "tensorrt"
    if runtime != manifest["target"]:
        # Another runtime than the bundle's own starts from the graph.
        manifest = dict(manifest, target=runtime, built_for=None)
        engine = bundle / manifest["deploy"]
    on_cpu = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}
    if runtime in on_cpu:
        return on_cpu[runtime](engine)
    trt = load_module(runtime)
    cuda, device = first_gpu()
    plan = options.plan or plan_path(manifest, trt, device)
    if options.build:
        build_plan(manifest, bundle, plan, trt)
    elif not plan.exists():
        if engine.suffix == ".onnx":
            raise UnavailableError(f"the bundle holds no plan for {runtime}: make one for this device with --build")
        refuse_other_device(manifest, trt, device)
        plan = engine
    return TensorRt(plan, trt, cuda, manifest["outputs"][0]["name"]).run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = parse(argv)
    try:
        if MISSING:
            raise UnavailableError(f"{MISSING}: run.py needs `pip install numpy pillow` and the engine's own runtime")
        manifest = read_manifest(options.bundle, options.require_signature)
        images = find_images(options.images)
        run = open_engine(options, manifest)
        results = []
        timing, kind = None, manifest["outputs"][0].get("kind")
        for paths, batch in batches(images, manifest):
            for path, logits in zip(paths, run(batch)):
                results.append({"image": str(path), "top5": top5(logits, manifest["labels"], kind)})
            if options.bench and timing is None:
                timing = bench(run, batch, max(options.rounds, 1))
        show(results, timing, options.json)
        sys.stdout.flush()
    except (BadInputError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `run.py folder/ | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def show(results: Sequence[dict[str, Any]], timing: dict[str, float] | None, as_json: bool) -> None:
    """Prints what was found."""
    if as_json:
        print(json.dumps({"results": results, "latency": timing}, indent=2))
        return
    for result in results:
        print(result["image"])
        for row in result["top5"]:
            print(f"  {row['probability']:7.2%}  {row['label']}")
    if timing is not None:
        print("latency  " + "  ".join(f"{key} {value}" for key, value in timing.items()))


if __name__ == "__main__":
    sys.exit(main())
