"""The tools that ``calibration.py`` compares, each as a command of its own, so that its peak memory is its own.

    python -m benchmarks.calibration_tools TOOL FOLDER IMAGES METHOD

does what one of :data:`STEPS` says and prints how long the work took, loading left out, as one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import Setting, prepared

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "bench-calibration"
PEER = ROOT / "build" / "peers" / "modelopt"
MODELOPT = "nvidia-modelopt[onnx]==0.47.*"

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

    from radixrt.export.feed import IMAGE_INPUT
    from radixrt.export.passes.pipeline import RewriteOptions, rewrite
    from radixrt.reuse import Reuse

    files = Files(WORK / name)
    files.folder.mkdir(parents=True, exist_ok=True)
    with Reuse() as reuse:
        network = prepared(name, Setting(data, None, count, 1, 0), reuse)
    images = np.concatenate([b.inputs[IMAGE_INPUT] for b in network.data.calibration.batches(16, count)])
    ir.save(network.graph, files.plain)
    ir.save(rewrite(network.graph.clone(), RewriteOptions())[0], files.rewritten)
    # More images than the set has are taken round again: time and memory do not care which they are.
    np.save(files.images, np.resize(images, (count, *images.shape[1:])))
    return files, network.model.weights


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

    from radixrt.engines.cpu.onnxruntime import session_options

    started = time.monotonic()
    opened = ort.InferenceSession(str(files.rewritten), session_options(), providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    for image in read_in_turn(files.images, count):
        opened.run(None, {name: image})
    print(json.dumps({"work_seconds": time.monotonic() - started}))


def step_radixrt(files: Files, count: int, method: str) -> None:
    import onnx_ir as ir

    from radixrt.calibration.ranges.collect import calibrate
    from radixrt.calibration.spec import CalibrationOptions, Method
    from radixrt.export.feed import IMAGE_INPUT

    model = ir.load(files.rewritten)
    started = time.monotonic()
    feeds = ({IMAGE_INPUT: image} for image in read_in_turn(files.images, count))
    calibrate(model, feeds, CalibrationOptions(Method.parse(method)))
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


def command_of(tool: str, files: Files, count: int, method: str) -> list[str] | None:
    """The command of one tool on so many images; None where ModelOpt cannot be installed."""
    given = [str(files.folder), str(count), method]
    if tool != "modelopt":
        return [sys.executable, "-m", "benchmarks.calibration_tools", tool, *given]
    python = modelopt_python()
    return None if python is None else [python, str(Path(__file__).with_name("quantise_modelopt.py")), *given]


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


@cache
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


def main() -> None:
    tool, folder, count, method = sys.argv[1:]
    STEPS[tool](Files(Path(folder)), int(count), method)


if __name__ == "__main__":
    main()
