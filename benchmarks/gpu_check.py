"""Checks a GPU with what ``make device-kit`` packed: ``make gpu-check KIT=FOLDER ARGS="--output results"``.

    python3 gpu_check.py KIT --output FOLDER [--seconds 600] [--python "trt/python"] [--tactics none]

It stands alone: Python 3.8, numpy, TensorRT with pycuda or cuda-python, and PyTorch for the baseline; no network, and
nothing is installed. ``--python`` is the Python that has TensorRT, where it is not this one. Plans are built and timed
by each bundle's own ``run.py``, in order of worth: the rewritten INT8 graph of every network first. A JSON is written
after each result; nothing new is started once ``--seconds`` have passed. Exit code 1 where no engine ran on a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import platform
import shlex
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ORDER = ("rewritten-int8", "original-int8", "rewritten-fp16", "original-fp16")
BATCHES = (1, 64)
SAID = 900


def unpack(kit: Path, name: str, folder: Path) -> None:
    """Puts a network's parts together and unpacks them; one that is not as it was packed is refused.

    Raises:
        ValueError: a part is missing or changed.
    """
    whole = io.BytesIO()
    for part, expected in json.loads((kit / f"{name}.json").read_text()).items():
        data = (kit / part).read_bytes() if (kit / part).exists() else b""
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError(f"{kit / part} is missing or not what was packed: copy it again")
        whole.write(data)
    whole.seek(0)
    with lzma.open(whole) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            inside = (folder / entry.name).resolve()
            if folder.resolve() not in inside.parents and inside != folder.resolve():
                raise ValueError(f"{name} holds {entry.name}, which lies outside it: make the kit again")
            archive.extract(entry, str(folder))


def parity(reference: np.ndarray, answer: np.ndarray) -> dict[str, Any]:
    """How close one set of logits is to another."""
    a, b = (logits.reshape(len(logits), -1).astype(np.float64) for logits in (reference, answer))
    cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    noise = float(((a - b) ** 2).sum())
    return {
        "images": len(a),
        "top1_agreement": float((a.argmax(1) == b.argmax(1)).mean()),
        "cosine_min": float(cosine.min()),
        "sqnr_db": float(10 * np.log10((a**2).sum() / noise)) if noise else None,
    }


class Results:
    """A JSON file that is written anew after each entry, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path, self.ran = path, 0
        facts = {"taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": platform.platform()}
        self.data: dict[str, Any] = {**facts, "gpu": gpu_facts(), "networks": {}}

    def put(self, network: str, key: str, value: dict[str, Any]) -> None:
        self.data["networks"].setdefault(network, {})[key] = value
        self.write()
        print(f"{network} {key}: {json.dumps(value)[:300]}", flush=True)

    def write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(self.data, indent=1) + "\n")
        partial.replace(self.path)


def gpu_facts() -> dict[str, str]:
    """What the driver's own tool says now; a Jetson has none."""
    query = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(query.split(","), (word.strip() for word in done.stdout.strip().split(","))))


def engine(folder: Path, key: str, work: Path, args: argparse.Namespace, answers: Any) -> dict[str, Any]:
    """Builds one bundle's plan and runs it, by its own ``run.py``; both in processes of their own."""
    run, plan = [*shlex.split(args.python), str(folder / key / "run.py")], work / f"{folder.name}-{key}.plan"
    tactics = ["--tactic-sources", args.tactics] if args.tactics else []
    sizes = ",".join(map(str, BATCHES))
    began = time.time()
    if not plan.exists():
        timings = ["--timing-cache", str(work / "timings.cache")]
        call([*run, "--build", "--plan", str(plan), "--batch", sizes, *timings, *tactics], args.most)
    built = time.time() - began
    out = work / f"{folder.name}-{key}.npz"
    given = ["--plan", str(plan), "--input", str(folder / "images.npz"), "--output", str(out), "--json"]
    timing = ["--bench", "--batch", sizes, "--rounds", str(args.rounds)]
    found = json.loads(call([*run, *given, *timing], args.most))
    with np.load(str(out)) as arrays:
        logits = arrays[arrays.files[0]]
    rows = [{name: value for name, value in row.items() if name != "samples_ms"} for row in found["latency"]]
    twin, original = parity(answers[key], logits), parity(answers["pytorch"], logits)
    entry = {"build_s": round(built, 1), "runtime": found["runtime"], "latency": rows}
    return {**entry, "against_cpu_twin": twin, "against_pytorch": original}


def call(command: list[str], seconds: float) -> str:
    """Runs a command; what it said last is the error where it fails.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"it took longer than {seconds:g} s") from error
    if done.returncode:
        raise RuntimeError(f"code {done.returncode}: {done.stderr.strip()[-SAID:]}")
    return done.stdout


def baselines(folder: Path, size: int, answers: Any, rounds: int) -> dict[str, dict[str, Any]]:
    """PyTorch in FP16, channels last, on the device's clock: eager, as a CUDA graph, and compiled.

    Raises:
        RuntimeError: PyTorch finds no GPU, or does not run the network.
    """
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU")
    torch.backends.cudnn.benchmark = True
    with np.load(str(folder / "images.npz")) as arrays:
        images = np.resize(arrays[arrays.files[0]], (size, *arrays[arrays.files[0]].shape[1:]))
    module = torch.export.load(str(folder / "network.pt2")).module().to(device="cuda", dtype=torch.half)
    batch = torch.from_numpy(images).to(device="cuda", dtype=torch.half, memory_format=torch.channels_last)
    compiled = torch.compile(module, mode="reduce-overhead", dynamic=False)
    found = {}
    with torch.inference_mode():
        for name, run in (("eager", module), ("cuda graph", recorded(module, batch)), ("compiled", compiled)):
            for _ in range(10):
                answer = run(batch)
            held = parity(answers["pytorch"][:size], answer[: len(answers["pytorch"])].float().cpu().numpy())
            times = sorted(timed(run, batch) for _ in range(rounds))
            found[f"pytorch {name} fp16"] = {"device_p50_ms": times[len(times) // 2], "against_pytorch": held}
    return found


def recorded(module: Any, batch: Any) -> Any:
    """A network recorded as one CUDA graph: no launch costs, no compiler."""
    import torch

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(batch)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = module(batch)

    def run(_: Any) -> Any:
        graph.replay()
        return answer

    return run


def timed(run: Any, batch: Any) -> float:
    """Milliseconds of one run between two events."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run(batch)
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def check(args: argparse.Namespace, results: Results) -> None:
    """Every result, in order of worth, as long as there is time."""
    started, folders = time.time(), {}  # type: float, dict[str, Path]
    for listed in sorted(args.kit.glob("*.json")):
        name = listed.stem
        try:
            if not (args.output / "kit" / name).exists():
                unpack(args.kit, name, args.output / "kit")
            folders[name] = args.output / "kit" / name
        except (OSError, ValueError, KeyError, lzma.LZMAError, tarfile.TarError) as error:
            results.put(name, "unpacking", {"failed": str(error)[:SAID]})
    jobs = [(key, name) for key in ORDER[:1] for name in folders]
    jobs += [(f"pytorch b{size}", name) for size in BATCHES for name in folders]
    jobs += [(key, name) for key in ORDER[1:] for name in folders]
    for key, name in jobs:
        if time.time() - started > args.seconds:
            results.put(name, key, {"skipped": "no time was left"})
            continue
        with np.load(str(folders[name] / "answers.npz")) as arrays:
            answers = {one: arrays[one] for one in arrays.files}
        try:
            if key.startswith("pytorch"):
                for row, value in baselines(folders[name], int(key[9:]), answers, args.rounds).items():
                    results.put(name, f"{row} {key[8:]}", value)
            else:
                results.put(name, key, engine(folders[name], key, args.output, args, answers))
                results.ran += 1
        except Exception as error:  # one that fails must not cost the others their figures
            results.put(name, key, {"failed": f"{type(error).__name__}: {error}"[:SAID]})


def table(data: dict[str, Any]) -> list[str]:
    """Milliseconds on the device, and how close its answers are."""
    lines = [f"{'network':20} {'engine':28} {'batch':>5} {'device ms':>10}  top-1 and cosine against the CPU twin"]
    for network, rows in data["networks"].items():
        for key, row in rows.items():
            for timing in row.get("latency", ()):
                ms = timing.get("device_p50_ms", timing["p50_ms"])
                held = row["against_cpu_twin"]
                said = f"{held['top1_agreement']:.3f}  {held['cosine_min']:.5f}"
                lines.append(f"{network:20} {'tensorrt ' + key:28} {timing['batch']:5} {ms:10.3f}  {said}")
            if "device_p50_ms" in row:
                name, _, size = key.rpartition(" b")
                lines.append(f"{network:20} {name:28} {size:>5} {row['device_p50_ms']:10.3f}")
            if "failed" in row or "skipped" in row:
                lines.append(f"{network:20} {key:28} {row.get('failed') or row['skipped']}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="the folder that make device-kit filled")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), help="takes the results, and the plans")
    parser.add_argument("--seconds", type=float, default=600, help="starts nothing new after these")
    parser.add_argument("--most", type=float, default=300, help="seconds that one build or run may take")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--python", default=sys.executable, help="the Python that has TensorRT")
    parser.add_argument("--tactics", default="", help="run.py's --tactic-sources, such as none")
    args = parser.parse_args()
    if not sorted(args.kit.glob("*.json")):
        print(f"error: {args.kit} holds no kit: make one with make device-kit", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    results = Results(args.output / "results.json")
    check(args, results)
    results.data["gpu_after"] = gpu_facts()
    results.write()
    print("\n".join(table(results.data)))
    print(f"Written to {results.path}")
    if not results.ran:
        print("error: no engine ran on a GPU here: the results say why", file=sys.stderr)
    return 0 if results.ran else 1


if __name__ == "__main__":
    sys.exit(main())
