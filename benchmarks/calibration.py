"""Calibration and INT8 beside their peers, on the same images, in one run. ``make bench-calibration``.

Three parts, run one by one with ``--part``; each writes its own share of benchmarks/results/calibration.json:

- ``cost``: time and peak memory of calibrating resnest50d by entropy, beside plain forward passes over the same images;
- ``accuracy``: the three sample networks in INT8: drop of top-1 with its paired 95 % interval, SQNR of the logits and
  latency, beside the peers at their defaults; and what ``--max-drop`` does;
- ``latency``: INT8 and FP32 of resnest50d on ONNX Runtime, batch 1, timed in turn.

The peers are ONNX Runtime's ``quantize_static`` and NVIDIA ModelOpt's ONNX PTQ; ModelOpt gets a virtual environment of
its own under ``build/peers/``, because it pins other versions of what RadixRT uses. Each measurement of ``cost`` has a
process of its own, so that its peak memory is its own; the address space of peers is limited, and what does not fit is
reported so.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import Run, Setting, built, prepared, runner, test_images

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench-calibration"
PEER = ROOT / "build" / "peers" / "modelopt"
RESULTS = Path(__file__).parent / "results" / "calibration.json"
MODELOPT = "nvidia-modelopt[onnx]==0.47.*"
PARTS = ("cost", "accuracy", "latency")
SAMPLES = ("senet-nano-elpv", "sknet-nano-elpv", "resnest-nano-elpv")

STRICT_POINTS = 2.0
"""Points that ``--max-drop --strict`` allows: some 260 images calibrate, and no count of them shows less than 1.5."""

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Files:
    """What a part hands to the processes that it starts: the network as captured, as rewritten, and the images."""

    folder: Path

    @property
    def plain(self) -> Path:
        return self.folder / "plain.onnx"

    @property
    def rewritten(self) -> Path:
        return self.folder / "graph.onnx"

    @property
    def images(self) -> Path:
        return self.folder / "images.npy"


def prepare_files(name: str, count: int, data: str) -> tuple[Files, str]:
    """Writes a network, as captured and as rewritten for onnxruntime, and so many images; tells its weights too."""
    import onnx_ir as ir

    from radixrt.export.rewrite import RewriteOptions, rewrite
    from radixrt.reuse import Reuse

    files = Files(WORK / name)
    files.folder.mkdir(parents=True, exist_ok=True)
    with Reuse() as reuse:
        network = prepared(name, Setting(data, None, count, 1, 0), reuse)
    images = np.concatenate([b.images for b in network.data.calibration.batches(16, count)])
    ir.save(network.graph, files.plain)
    ir.save(rewrite(network.graph.clone(), RewriteOptions(target="onnxruntime"))[0], files.rewritten)
    # More images than the set has are taken round again: time and memory do not care which they are.
    np.save(files.images, np.resize(images, (count, *images.shape[1:])))
    return files, network.model.weights


# --- what each process measures; each prints one JSON object ------------------------------------------------------


def read_in_turn(path: Path, count: int) -> Iterator[Float]:
    """Yields the stored images one by one, (1, C, H, W), as a data source would: a mapped file would stay in memory."""
    stored = np.load(path, mmap_mode="r")
    shape, kind, start = (1, *stored.shape[1:]), stored.dtype, stored.offset
    del stored
    size = int(np.prod(shape))
    for i in range(count):
        yield np.fromfile(path, kind, size, offset=start + i * size * kind.itemsize).reshape(shape)


def step_forward(files: Files, count: int, _: str) -> None:
    import onnxruntime as ort

    from radixrt.engines.onnxruntime import session_options

    started = time.monotonic()
    opened = ort.InferenceSession(str(files.rewritten), session_options(), providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    for image in read_in_turn(files.images, count):
        opened.run(None, {name: image})
    print(json.dumps({"work_seconds": time.monotonic() - started}))


def step_radixrt(files: Files, count: int, method: str) -> None:
    import onnx_ir as ir

    from radixrt.calibration.collect import calibrate
    from radixrt.calibration.spec import CalibrationOptions, Method

    model = ir.load(files.rewritten)
    started = time.monotonic()
    calibrate(model, read_in_turn(files.images, count), CalibrationOptions(Method.parse(method)))
    print(json.dumps({"work_seconds": time.monotonic() - started}))


def step_ort(files: Files, count: int, method: str) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    images = np.load(files.images, mmap_mode="r")[:count]
    name = onnx.load(str(files.plain), load_external_data=False).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(range(count))

        def get_next(self) -> dict[str, Float] | None:
            i = next(self._left, None)
            return None if i is None else {name: np.ascontiguousarray(images[i : i + 1])}

    chosen = {} if method == "defaults" else {"calibrate_method": CalibrationMethod.Entropy}
    started = time.monotonic()
    quantize_static(str(files.plain), str(files.folder / f"ort-{method}.onnx"), Reader(), **chosen)
    print(json.dumps({"work_seconds": time.monotonic() - started}))


STEPS = {"forward": step_forward, "radixrt": step_radixrt, "ort": step_ort}
_MODELOPT_STEP = """
import sys, numpy as np, onnx
from modelopt.onnx.quantization import quantize
folder, count, method = sys.argv[1], int(sys.argv[2]), sys.argv[3]
images = np.load(folder + "/images.npy", mmap_mode="r")[:count]
chosen = {} if method == "defaults" else {"calibration_method": method}
name = onnx.load(folder + "/plain.onnx").graph.input[0].name
quantize(folder + "/plain.onnx", quantize_mode="int8", calibration_data={name: np.ascontiguousarray(images)},
         calibration_eps=["cpu"], output_path=folder + "/modelopt-" + method + ".onnx", **chosen)
"""


def step(name: str, files: Files, count: int, method: str) -> list[str]:
    """The command of one measurement."""
    return [sys.executable, "-m", "benchmarks.calibration", "--step", name, str(files.folder), str(count), method]


def measured(command: list[str], limit_bytes: int) -> dict[str, Any]:
    """Runs a command; its own seconds (loading left out where it says them), its peak bytes, or why it failed."""
    code = (
        "import json, resource, subprocess, sys, time\n"
        "limit = int(sys.argv[1])\n"
        "cap = lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)) if limit else None\n"
        "t = time.monotonic()\n"
        "r = subprocess.run(sys.argv[2:], preexec_fn=cap, capture_output=True, text=True)\n"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "why = (r.stderr.strip().splitlines() or ['killed'])[-1][:300] if r.returncode else ''\n"
        "own = [l for l in r.stdout.splitlines() if l.startswith('{\"work_seconds')]\n"
        "took = json.loads(own[-1])['work_seconds'] if own else time.monotonic() - t\n"
        "print(json.dumps({'seconds': took, 'peak_bytes': u.ru_maxrss * 1024, 'failed': why}))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(limit_bytes), *command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    result: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return result


def modelopt_python() -> str | None:
    """The interpreter of ModelOpt's own environment, made on first use; None where it cannot be installed."""
    python, ready = PEER / "bin" / "python", PEER / ".ready"
    if not ready.exists():
        PEER.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", MODELOPT], capture_output=True, text=True
        )
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["?"])[-1]
            print(f"ModelOpt cannot be installed here: {why}", file=sys.stderr)
            return None
        ready.touch()
    return str(python)


# --- the three parts ----------------------------------------------------------------------------------------------


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Time and peak memory of each tool, the plain forward pass among them.

    A peer that does not fit gets half as many images, until it fits.
    """
    name = args.model or "resnest50d"
    files, weights = prepare_files(name, args.images, args.data)
    limit = int(args.limit_gb * 1e9)
    counts = sorted({min(64, args.images), args.images})
    rows: list[dict[str, Any]] = []

    def take(tool: str, count: int, command: list[str], limit_bytes: int = 0) -> dict[str, Any]:
        row = {"tool": tool, "images": count, **measured(command, limit_bytes)}
        rows.append(row)
        said = f"{row['seconds']:8.1f} s {row['peak_bytes'] / 1e9:6.2f} GB {row['failed']}"
        print(f"{tool:10} {count:5} images {said}", flush=True)
        return row

    for count in counts:
        for tool in ("forward", "radixrt"):
            take(tool, count, step(tool, files, count, "entropy"))
    python = modelopt_python()
    for tool in ("ort", "modelopt") if python else ("ort",):
        count = args.images
        while count >= 8:
            own = [str(python), "-c", _MODELOPT_STEP, str(files.folder), str(count), "entropy"]
            command = own if tool == "modelopt" else step(tool, files, count, "entropy")
            if not take(tool, count, command, limit)["failed"]:
                break
            count //= 2
    found = {(row["tool"], row["images"]): row for row in rows}
    ours = found["radixrt", args.images]
    summary = {
        "seconds_over_forward": ours["seconds"] / found["forward", args.images]["seconds"],
        "peak_bytes_over_fewest_images": ours["peak_bytes"] / found["radixrt", counts[0]]["peak_bytes"],
    }
    print(
        f"{args.images} images: {summary['seconds_over_forward']:.2f}x the forward passes' time, "
        f"{ours['peak_bytes'] / 1e9:.2f} GB, {summary['peak_bytes_over_fewest_images']:.2f}x that of {counts[0]} images"
    )
    return {"model": name, "weights": weights, "method": "entropy", "limit_gb": args.limit_gb, "rows": rows, **summary}


def accuracy(args: argparse.Namespace) -> dict[str, Any]:
    """Drop, SQNR and latency of RadixRT's INT8 and the peers' at their defaults, on the test images."""
    names = args.model.split(",") if args.model else SAMPLES
    return {name: accuracy_of(name, args) for name in names}


def accuracy_of(name: str, args: argparse.Namespace) -> dict[str, Any]:
    from radixrt.calibration.quantizer import sqnr_db
    from radixrt.engines.registry import get
    from radixrt.export.spec import Precision
    from radixrt.recovering import MaxDrop, Recovery
    from radixrt.reuse import Reuse
    from radixrt.validate.latency import LatencyOptions, measure
    from radixrt.validate.statistics import PairedTable, difference_interval

    setting = Setting(args.data, None, args.calibration_images, args.test_images, args.threads)
    files, _ = prepare_files(name, args.calibration_images, args.data)
    recoveries = {
        "radixrt": Recovery(),
        "radixrt --no-recovery": Recovery(enabled=False),
        f"radixrt --max-drop {STRICT_POINTS:g} --strict": Recovery(max_drop=MaxDrop(STRICT_POINTS, True, True)),
        "radixrt --max-drop 0": Recovery(max_drop=MaxDrop(0.0, False, True)),
    }
    runs: dict[str, Run] = {}
    said: dict[str, list[str]] = {}
    with ExitStack() as stack:
        reuse = stack.enter_context(Reuse())
        network = prepared(name, setting, reuse)
        for i, (title, recovery) in enumerate({"float32": None, **recoveries}.items()):
            precision = Precision.FP32 if recovery is None else Precision.INT8
            folder = files.folder / f"engine-{i}"
            engine = built(network, precision, "onnxruntime", folder, setting, reuse, recovery)
            session = stack.enter_context(get("onnxruntime").open(engine.files[0], threads=args.threads))
            runs[title] = runner(session)
            if recovery is not None:
                said[title] = json.loads((folder / "recovery.json").read_text())
        for title, path in peers(files, args.calibration_images).items():
            runs[title] = precise_runner(path, args.threads)
        images = test_images(network, args.test_images)
        labels = np.concatenate(
            [np.asarray(b.labels) for b in network.test.batches(8, args.test_images) if b.labels is not None]
        )[: len(images)]
        options = LatencyOptions(baseline="float32", rounds=args.rounds, seconds=60, threads=args.threads)
        latency = measure(runs, images, options)
        answers = {
            title: np.concatenate([run(images[i : i + 1]) for i in range(len(images))]) for title, run in runs.items()
        }
    exact = answers["float32"]
    right = exact.argmax(axis=1) == labels
    p50 = {row.name: row.p50_ms for row in latency.rows}
    print(f"\n{name}: {len(images)} test images, calibrated on {args.calibration_images}", flush=True)
    rows = []
    decibels: dict[str, float] = {}
    for title, got in answers.items():
        pairs = PairedTable.count(right, got.argmax(axis=1) == labels)
        low, high = difference_interval(pairs)
        decibels[title] = min(sqnr_db(exact, got), 999.0)
        sentences = said.get(title, [])
        row = {
            "name": title,
            "sqnr_db": decibels[title],
            "top1": (pairs.both + pairs.gained) / pairs.images,
            "drop_points": -pairs.difference * 100,
            "drop_ci95_points": [-high * 100, -low * 100],
            "p50_ms": p50[title],
            "recovery": sentences,
        }
        rows.append(row)
        print(
            f"{title:32} {row['sqnr_db']:6.1f} dB  top-1 {row['top1']:.4f}  drop {row['drop_points']:+.2f} points "
            f"[{-high * 100:+.2f}, {-low * 100:+.2f}]  {row['p50_ms']:6.2f} ms",
            flush=True,
        )
        for sentence in sentences:
            print(f"    {sentence}", flush=True)
    rivals = {title: db for title, db in decibels.items() if title in ("onnxruntime defaults", "modelopt defaults")}
    ahead = decibels["radixrt"] - max(rivals.values())
    print(f"SQNR at default settings: {ahead:+.1f} dB against the better of {', '.join(rivals)}", flush=True)
    return {"test_images": len(images), "noise": latency.method.noise, "sqnr_db_ahead": ahead, "rows": rows}


def peers(files: Files, count: int) -> dict[str, Path]:
    """The peers' INT8 graphs of the network as it was captured; those that fail are said and left out."""
    python = modelopt_python()
    commands = {"onnxruntime defaults": (step("ort", files, count, "defaults"), files.folder / "ort-defaults.onnx")}
    # ModelOpt's default is entropy; the plain maximum stands beside it, because entropy clips these networks badly.
    for method in ("defaults", "max") if python else ():
        command = [str(python), "-c", _MODELOPT_STEP, str(files.folder), str(count), method]
        commands[f"modelopt {method}"] = (command, files.folder / f"modelopt-{method}.onnx")
    found = {}
    for title, (command, path) in commands.items():
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            print(f"{title} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        else:
            found[title] = path
    return found


def precise_runner(path: Path, threads: int) -> Run:
    """A peer's graph, open so that 16-bit sums cannot overflow: it would be judged by overflows otherwise."""
    import onnxruntime as ort

    from radixrt.engines.onnxruntime import session_options

    options = session_options(threads)
    options.add_session_config_entry("session.x64quantprecision", "1")
    opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    return lambda images: np.asarray(opened.run(None, {name: images})[0])


def latency(args: argparse.Namespace) -> dict[str, Any]:
    """INT8 against FP32 on ONNX Runtime, batch 1, timed in turn; the original graph in FP32 beside them."""
    from radixrt.calibration.quantizer import sqnr_db
    from radixrt.engines.registry import get
    from radixrt.export.spec import Precision
    from radixrt.reuse import Reuse
    from radixrt.validate.latency import LatencyOptions, measure

    name = args.model or "resnest50d"
    setting = Setting(args.data, None, min(args.calibration_images, 128), 32, args.threads)
    with ExitStack() as stack:
        reuse = stack.enter_context(Reuse())
        network = prepared(name, setting, reuse)
        runs: dict[str, Run] = {}
        for precision in (Precision.INT8, Precision.FP32):
            folder = WORK / name / f"engine-{precision.value}"
            engine = built(network, precision, "onnxruntime", folder, setting, reuse)
            session = stack.enter_context(get("onnxruntime").open(engine.files[0], threads=args.threads))
            runs[f"radixrt {precision.value}"] = runner(session)
        images = test_images(network, 32)
        options = LatencyOptions(baseline="radixrt fp32", rounds=args.rounds, seconds=120, threads=args.threads)
        found = measure(runs, images, options)
        answers = {
            title: np.concatenate([run(images[i : i + 1]) for i in range(len(images))]) for title, run in runs.items()
        }
    p50 = {row.name: row.p50_ms for row in found.rows}
    result = {
        "model": name,
        "weights": network.model.weights,
        "fp32_p50_ms": p50["radixrt fp32"],
        "int8_p50_ms": p50["radixrt int8"],
        "speedup_p50": p50["radixrt fp32"] / p50["radixrt int8"],
        "noise": found.method.noise,
        "sqnr_db": sqnr_db(answers["radixrt fp32"], answers["radixrt int8"]),
    }
    print(
        f"{name}, onnxruntime, batch 1: FP32 {result['fp32_p50_ms']:.2f} ms, INT8 {result['int8_p50_ms']:.2f} ms, "
        f"{result['speedup_p50']:.2f}x (noise {result['noise']:.2f}x), SQNR of the logits {result['sqnr_db']:.1f} dB"
    )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default=None, help="instead of the part's own; names with commas for accuracy")
    parser.add_argument("--images", type=int, default=512, help="cost: how many images calibrate")
    parser.add_argument("--calibration-images", type=int, default=256, help="accuracy, latency: at most so many")
    parser.add_argument("--test-images", type=int, default=2000, help="accuracy: at most so many")
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0, help="0 is the runtime's choice")
    parser.add_argument("--limit-gb", type=float, default=16.0, help="cost: address space of each peer")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--step", nargs=4, metavar=("NAME", "FOLDER", "IMAGES", "METHOD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        name, folder, count, method = args.step
        STEPS[name](Files(Path(folder)), int(count), method)
        return
    for part in args.part:
        print(f"--- {part}", flush=True)
        started = time.monotonic()
        result = {"cost": cost, "accuracy": accuracy, "latency": latency}[part](args)
        # Read again after each part: parts may run as commands of their own.
        written = json.loads(args.output.read_text()) if args.output.exists() else {}
        if part == "accuracy":  # so may its networks
            result = {**written.get(part, {}).get("result", {}), **result}
        written[part] = {
            "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in ("onnxruntime", "onnx", "numpy")} | {"modelopt": MODELOPT},
            "seconds": time.monotonic() - started,
            "result": result,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.output} ({part}, {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
