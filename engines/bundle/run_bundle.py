#!/usr/bin/env python3
"""Runs images through the bundle that this file lies in. It stands alone.

    python3 run.py photo.jpg              what the network answers to one image, or to several, or to a folder
    python3 run.py --bench photo.jpg      latency as well; --batch 1,8 of these sizes
    python3 run.py --input x.npy --output y.npz           arrays in (.npz by name), every output out; needs no Pillow
    python3 run.py --build                makes this device's TensorRT plan from deploy.onnx (a Jetson starts here)
    python3 run.py --build --batch 1,8,16..64             with a profile for each batch size or range
    python3 run.py --require-signature maker.pub photo.jpg    only if the owner of that key made the bundle

Needs Python 3.8, numpy and the engine's own runtime: onnxruntime, openvino, or tensorrt or tensorrt_rtx with pycuda or
cuda-python; for pictures Pillow, and with --require-signature also cryptography. Beside it lie bundle_files.py, which
reads the bundle and what it is given, pixels.py, which prepares images as they were prepared for calibration,
answers.py, which says what outputs mean, and bundle_plan.py, cuda_driver.py and cuda_graph.py for plans on a GPU.
Exit codes: 0 done; 2 bad usage or bad input; 4 the engine cannot run on this machine.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

# A bundle's files are sealed: importing the modules beside this file must not leave a __pycache__ there.
sys.dont_write_bytecode = True
try:
    import numpy as np
except ImportError as error:
    # Help needs none; whatever else is asked for is refused when it is known what that is.
    np = None  # type: ignore[assignment]
    MISSING = str(error)
else:
    MISSING = ""

from bundle_files import (  # noqa: E402  # it lies beside this file
    MODULES,
    Answer,
    BadInputError,
    Feed,
    Ranges,
    UnavailableError,
    find_images,
    length,
    load_image,
    load_tensors,
    range_for,
    read_manifest,
    sides_of,
    size_of,
    whole,
)

Run = Callable[[Feed], Answer]


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
    import bundle_plan  # which lies beside this file

    cuda, device = bundle_plan.first_gpu()
    plan = options.plan or bundle_plan.plan_path(manifest, trt, device)
    if options.build:
        choices = bundle_plan.Choices(
            options.batch, options.tactic_sources, options.timing_cache, options.builder_level
        )
        bundle_plan.build_plan(manifest, bundle, plan, trt, choices)
    elif not plan.exists():
        if engine.suffix == ".onnx":
            raise UnavailableError(f"the bundle holds no plan for {runtime}: make one for this device with --build")
        bundle_plan.refuse_other_device(manifest, trt, device)
        plan = engine
    opened = bundle_plan.PlanEngine(plan, trt, cuda, runtime, device)  # type: Engine
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
        return int(error.exit_code)
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
