"""Calibration beside its peers: time, peak memory and the SQNR of the logits, on the same images, one after another.

Time and memory against the plain forward pass, then SQNR, top-1 and latency against the peers::

    python -m benchmarks.calibration --model resnest50d --images 512
    python -m benchmarks.calibration --accuracy --model senet-nano-elpv,resnest-nano-elpv,sknet-nano-elpv

Each measurement runs in a process of its own, so that its peak memory is its own. The peers are ONNX Runtime's
``quantize_static`` and NVIDIA ModelOpt's ONNX PTQ; ModelOpt gets a virtual environment of its own under
``build/peers/``, because it pins other versions of what RadixRT uses. Peers that fail or run out of memory are reported
as such, with the reason.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench-calibration"
PEER = ROOT / "build" / "peers" / "modelopt"
MODELOPT = "nvidia-modelopt[onnx]==0.47.*"


def prepare(name: str, images: int) -> Path:
    """Captures the model; writes ``plain.onnx``, ``graph.onnx`` (rewritten), the images, and the test with labels."""
    import onnx_ir as ir

    from radixrt.calibration.data import Preprocess, load_data
    from radixrt.export.batchnorm import fit_statistics
    from radixrt.export.capture import capture
    from radixrt.export.model_ref import resolve
    from radixrt.export.rewrite import RewriteOptions, rewrite
    from radixrt.export.simplify import simplify
    from radixrt.export.spec import BatchSpec
    from radixrt.export.zoo import load

    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    loaded = load(resolve(name), checkpoint=None, num_classes=None)
    known = {k: v for k, v in loaded.data_config.items() if k in Preprocess.model_fields}
    preprocess = Preprocess(**known)
    data = load_data("elpv", preprocess)
    calibration = np.concatenate([b.images for b in data.calibration.batches(16, images)])
    # More images than the set has are taken round again: time and memory do not care which they are.
    calibration = np.resize(calibration, (images, *calibration.shape[1:]))
    assert loaded.module is not None
    if loaded.weights == "random":
        fit_statistics(loaded.module, [calibration[:16]])
    graph = simplify(capture(loaded.module, preprocess.input_size, BatchSpec(1, 64)))
    ir.save(graph, folder / "plain.onnx")
    ir.save(rewrite(graph, RewriteOptions(target="onnxruntime"))[0], folder / "graph.onnx")
    np.save(folder / "images.npy", calibration)
    if data.test is not None:
        batches = list(data.test.batches(16, None))
        np.save(folder / "test.npy", np.concatenate([b.images for b in batches]))
        np.save(folder / "labels.npy", np.concatenate([np.asarray(b.labels) for b in batches]))
    return folder


def session(path: Path, *, precise: bool = False) -> Any:
    import onnxruntime as ort

    from radixrt.engines.onnxruntime import session_options

    options = session_options()
    # RadixRT's weights need no protection from 16-bit sums; without it the peers' would be judged by overflows.
    options.add_session_config_entry("session.x64quantprecision", str(int(precise)))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def logits(path: Path, images: np.ndarray, *, precise: bool = False) -> tuple[np.ndarray, float]:
    """Logits, and the median milliseconds of one image."""
    opened = session(path, precise=precise)
    name = opened.get_inputs()[0].name
    rows, times = [], []
    for i in range(len(images)):
        started = time.perf_counter()
        rows.append(opened.run(None, {name: images[i : i + 1]})[0])
        times.append(time.perf_counter() - started)
    return np.concatenate(rows), float(np.median(times)) * 1e3


# --- what each process measures; each prints one JSON object ------------------------------------------------------


def step_forward(folder: Path, count: int) -> None:
    images = np.load(folder / "images.npy", mmap_mode="r")[:count]
    started = time.monotonic()
    opened = session(folder / "graph.onnx")
    name = opened.get_inputs()[0].name
    for i in range(count):
        opened.run(None, {name: images[i : i + 1]})
    print(json.dumps({"work_seconds": time.monotonic() - started}))


def step_radixrt(folder: Path, count: int) -> None:
    import onnx_ir as ir

    from radixrt.calibration.collect import calibrate
    from radixrt.calibration.spec import CalibrationOptions, Method

    images = np.load(folder / "images.npy", mmap_mode="r")[:count]
    model = ir.load(folder / "graph.onnx")
    started = time.monotonic()
    calibrate(model, (images[i : i + 8] for i in range(0, count, 8)), CalibrationOptions(Method.ENTROPY))
    print(json.dumps({"work_seconds": time.monotonic() - started}))


def step_ort(folder: Path, count: int) -> None:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

    images = np.load(folder / "images.npy", mmap_mode="r")[:count]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(range(count))

        def get_next(self) -> dict[str, np.ndarray] | None:
            i = next(self._left, None)
            return None if i is None else {"input": np.ascontiguousarray(images[i : i + 1])}

    method = CalibrationMethod.MinMax if "--defaults" in sys.argv else CalibrationMethod.Entropy
    started = time.monotonic()
    quantize_static(str(folder / "plain.onnx"), str(folder / "ort.onnx"), Reader(), calibrate_method=method)
    print(json.dumps({"work_seconds": time.monotonic() - started}))


STEPS = {"forward": step_forward, "radixrt": step_radixrt, "ort": step_ort}
_MODELOPT_STEP = """
import sys, numpy as np
from modelopt.onnx.quantization import quantize
folder, count = sys.argv[1], int(sys.argv[2])
images = np.load(folder + "/images.npy", mmap_mode="r")[:count]
method = {} if sys.argv[3] == "defaults" else {"calibration_method": sys.argv[3]}
quantize(folder + "/plain.onnx", quantize_mode="int8", calibration_data={"input": np.ascontiguousarray(images)},
         calibration_eps=["cpu"], output_path=folder + "/modelopt-" + sys.argv[3] + ".onnx", **method)
"""


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
        [sys.executable, "-c", code, str(limit_bytes), *command], capture_output=True, text=True, check=True
    )
    result: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return result


def modelopt_python() -> str | None:
    """The interpreter of ModelOpt's own environment, made on first use; None where it cannot be installed."""
    python = PEER / "bin" / "python"
    ready = PEER / ".ready"
    if not ready.exists():
        PEER.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", MODELOPT], capture_output=True, text=True
        )
        if done.returncode:
            print(
                f"ModelOpt cannot be installed here: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr
            )
            return None
        ready.touch()
    return str(python)


def cost(folder: Path, counts: list[int], limit_bytes: int) -> list[dict[str, Any]]:
    """Time and peak memory of each tool for each number of images, the plain forward pass among them."""
    rows = []
    modelopt = modelopt_python()
    for count in counts:
        jobs = {
            name: [sys.executable, "-m", "benchmarks.calibration", "--step", name, str(folder), str(count)]
            for name in STEPS
        }
        if modelopt:
            jobs["modelopt"] = [modelopt, "-c", _MODELOPT_STEP, str(folder), str(count), "entropy"]
        for name, command in jobs.items():
            row = {
                "tool": name,
                "images": count,
                **measured(command, limit_bytes if name in ("ort", "modelopt") else 0),
            }
            rows.append(row)
            print(
                f"{name:10} {count:5} images {row['seconds']:8.1f} s {row['peak_bytes'] / 1e9:6.2f} GB {row['failed']}",
                flush=True,
            )
    return rows


def accuracy(folder: Path) -> list[dict[str, Any]]:
    """SQNR of the logits, top-1 and latency of RadixRT's INT8 and the peers' at their defaults, on the test images."""
    import onnx_ir as ir

    from radixrt.calibration.collect import calibrate
    from radixrt.calibration.placement import place
    from radixrt.calibration.placement_spec import PlacementOptions
    from radixrt.calibration.quantizer import sqnr_db
    from radixrt.calibration.recovery import recover
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.calibration.twin import to_unsigned
    from radixrt.recovering import RECOVERY_IMAGES
    from radixrt.validate.statistics import PairedTable, difference_interval

    images, test, labels = (np.load(folder / f"{n}.npy") for n in ("images", "test", "labels"))
    exact, float_ms = logits(folder / "graph.onnx", test)
    model = ir.load(folder / "graph.onnx")
    table = calibrate(model, [images], CalibrationOptions(Method.MINMAX))
    graphs: dict[str, Path] = {}
    for target in ("onnxruntime", "tensorrt"):
        options = PlacementOptions(target)
        found = recover(model, table, images[:RECOVERY_IMAGES], options)
        for tag, graph, ranges in (("", model, table), ("+recovery", found.model, found.table)):
            path = folder / f"{target}{tag}.onnx"
            ir.save(to_unsigned(place(graph, ranges, options)[0]), path)
            graphs[f"radixrt {target}{tag}"] = path
        for step in found.steps:
            print(f"  {target}: {step.sentence()}", flush=True)
    step_ort(folder, len(images))
    graphs["onnxruntime quantize_static"] = folder / "ort.onnx"
    python = modelopt_python()
    # Its default is entropy; the plain maximum stands beside it, because entropy clips these networks badly.
    for method in ("defaults", "max") if python else ():
        command = [str(python), "-c", _MODELOPT_STEP, str(folder), str(len(images)), method]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"ModelOpt failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        else:
            graphs[f"modelopt {method}"] = folder / f"modelopt-{method}.onnx"
    rows = []
    right = exact.argmax(axis=1) == labels
    for name, path in {"float32": folder / "graph.onnx", **graphs}.items():
        got, ms = (exact, float_ms) if name == "float32" else logits(path, test, precise=not name.startswith("radixrt"))
        pairs = PairedTable.count(right, got.argmax(axis=1) == labels)
        low, high = difference_interval(pairs)
        row = {
            "name": name,
            "sqnr_db": min(sqnr_db(exact, got), 999.0),
            "top1": (pairs.both + pairs.gained) / pairs.images,
            "drop_points": -pairs.difference * 100,
            "drop_ci95_points": [-high * 100, -low * 100],
            "ms": ms,
        }
        rows.append(row)
        print(
            f"{name:32} {row['sqnr_db']:6.1f} dB  top-1 {row['top1']:.4f}  drop {row['drop_points']:+.2f} points "
            f"[{-high * 100:+.2f}, {-low * 100:+.2f}]  {ms:6.2f} ms",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnest50d")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--accuracy", action="store_true", help="SQNR, top-1 and latency instead of time and memory")
    parser.add_argument("--limit-gb", type=float, default=20.0, help="address space of each peer")
    parser.add_argument("--defaults", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--step", nargs=3, metavar=("NAME", "FOLDER", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, folder, count = arguments.step
        STEPS[name](Path(folder), int(count))
        return
    if arguments.accuracy:
        sys.argv.append("--defaults")
    for model in arguments.model.split(","):
        print(f"{model}:", flush=True)
        folder = prepare(model, min(arguments.images, 128) if arguments.accuracy else arguments.images)
        if arguments.accuracy:
            result = accuracy(folder)
        else:
            result = cost(folder, sorted({min(64, arguments.images), arguments.images}), int(arguments.limit_gb * 1e9))
        path = folder / ("accuracy.json" if arguments.accuracy else "cost.json")
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written: {path.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main()
