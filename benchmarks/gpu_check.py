"""Checks a GPU with what ``make device-kit`` packed: ``make gpu-check KIT=FOLDER ARGS="--output results"``.

    python3 gpu_check.py KIT --output FOLDER [--seconds 600] [--only pytorch] [--python "trt/python"]

It stands alone: Python 3.8, numpy, TensorRT with pycuda or cuda-python, and PyTorch for the baseline; no network, and
nothing is installed. TensorRT is that of the kit, where it was made so, or of ``--python``, or of this Python. Plans
are built and timed by each bundle's own ``run.py``, PyTorch and ONNX Runtime by ``gpu_baseline.py`` beside this file,
all in processes of their own, in order of worth. A JSON is written after each result, and nothing new is started once
``--seconds`` have passed; run again with the same ``--output``, it goes on with what has no figures yet. Exit code 1
where no engine ran on a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import lzma
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import numpy as np

ORDER = ("rewritten-int8", "original-int8", "rewritten-fp16", "original-fp16")
FIRST = "resnest50"
# Not a network: TensorRT with a Python of its own, where the kit was made so, and the tactics that its libraries have.
OWN_TENSORRT, OWN_TACTICS = "tensorrt", "EDGE_MASK_CONVOLUTIONS,JIT_CONVOLUTIONS"
BATCHES = (1, 64)
TENSORRT = tuple(f"tensorrt {key}" for key in ORDER)
BESIDE = tuple(
    [f"pytorch {kind} b{size}" for size in BATCHES for kind in ("compiled", "eager", "graph")]
    + [f"onnxruntime {key} b{size}" for size in BATCHES for key in ORDER[2:]]
)
# What the rows of PyTorch are held against; it computes in half precision too.
TWIN_OF_PYTORCH = "original-fp16"
SAID = 900
NO_TIME = {"skipped": "no time was left"}  # as gpu_baseline.py says it too


def listed(kit: Path, pattern: str) -> list[Path]:
    """Files of a kit: in its numbered folders, or all in one."""
    return sorted([*kit.glob(pattern), *kit.glob(f"[0-9][0-9]/{pattern}")])


def unpack(kit: Path, name: str, folder: Path) -> Path:
    """Puts the parts of a network together and unpacks them, where that was not done; returns its folder.

    Raises:
        ValueError: a part is missing, or not as it was packed.
    """
    if (folder / name).exists():
        return folder / name
    whole = io.BytesIO()
    for part, expected in json.loads(listed(kit, f"{name}.json")[0].read_text()).items():
        data = b"".join(path.read_bytes() for path in listed(kit, part)[:1])
        if hashlib.sha256(data).hexdigest() != expected:
            raise ValueError(f"{part} is missing in {kit}, or not what was packed: copy it again")
        whole.write(data)
    whole.seek(0)
    scratch = folder / f".{name}"
    shutil.rmtree(str(scratch), ignore_errors=True)
    with lzma.open(whole) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            inside = (scratch / entry.name).resolve()
            if scratch.resolve() not in inside.parents and inside != scratch.resolve():
                raise ValueError(f"{name} holds {entry.name}, which lies outside it: make the kit again")
            archive.extract(entry, str(scratch))
    (scratch / name).replace(folder / name)
    return folder / name


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


class Network:
    """One network of the kit, unpacked: its folder, and what is known of its answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        with np.load(str(folder / "answers.npz")) as arrays:
            self.answers = {one: arrays[one] for one in arrays.files}

    def held(self, logits: np.ndarray, twin: str) -> dict[str, Any]:
        """Answers to the first images against those of the CPU, and against the labels where there are some."""
        known = {name: array[: len(logits)] for name, array in self.answers.items()}
        logits = logits[: len(known[twin])]
        found = {"against_cpu_twin": parity(known[twin], logits), "against_pytorch": parity(known["pytorch"], logits)}
        if "labels" in known:
            found["top1"] = {
                name: float((one.argmax(1) == known["labels"]).mean())
                for name, one in (("here", logits), ("cpu_twin", known[twin]), ("pytorch", known["pytorch"]))
            }
        return found


class Results:
    """A JSON file that is written anew after each entry, whole or not at all; what it holds already is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        facts = {"taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": platform.platform()}
        self.data: dict[str, Any] = {**facts, "gpu": gpu_facts(), "networks": {}}
        if path.exists():
            self.data["networks"] = json.loads(path.read_text())["networks"]

    def measured(self, network: str, row: str) -> bool:
        """Says whether a row has figures."""
        found = self.data["networks"].get(network, {}).get(row)
        return found is not None and "failed" not in found and "skipped" not in found

    @property
    def engines(self) -> int:
        """How many engines ran on the GPU."""
        rows = [(network, row) for network, found in self.data["networks"].items() for row in found]
        return sum(row in TENSORRT and self.measured(network, row) for network, row in rows)

    def put(self, network: str, row: str, value: dict[str, Any]) -> None:
        rows = self.data["networks"].setdefault(network, {})
        if value == NO_TIME and row in rows:
            return  # why it failed before says more
        rows[row] = value
        self.write()
        print(f"{network} {row}: {json.dumps(value)[:300]}", flush=True)

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


def engine(network: Network, key: str, args: argparse.Namespace) -> dict[str, Any]:
    """Builds one bundle's plan and runs it, by its own ``run.py``; both in processes of their own."""
    work, name = args.output, f"{network.name}-{key}"
    run, plan = [*shlex.split(args.python), str(network.folder / key / "run.py")], work / f"{name}.plan"
    steered = ["--tactic-sources", args.tactics] if args.tactics else []
    steered += ["--builder-level", str(args.builder_level)] if args.builder_level is not None else []
    sizes = ",".join(map(str, BATCHES))
    began = time.time()
    if not plan.exists():
        timings = ["--timing-cache", str(work / "timings.cache")]
        call([*run, "--build", "--plan", str(plan), "--batch", sizes, *timings, *steered], args.most)
    built = time.time() - began
    given, out = work / f"{network.name}.npz", work / f"{name}.npz"
    with np.load(str(network.folder / "images.npz")) as arrays:
        # Whole batches of the largest size, then one image again: it is left to the profile of batch 1.
        images = {one: arrays[one] for one in arrays.files}
    whole = max(len(next(iter(images.values()))) // max(BATCHES), 1) * max(BATCHES)
    fed: Any = {one: np.concatenate([array[:whole], array[:1]]) for one, array in images.items()}
    np.savez(str(given), **fed)
    opened = ["--plan", str(plan), "--input", str(given), "--output", str(out), "--json"]
    timing = ["--bench", "--batch", sizes, "--rounds", str(args.rounds)]
    found = json.loads(call([*run, *opened, *timing], args.most))
    with np.load(str(out)) as arrays:
        logits = arrays[arrays.files[0]]
    rows = [{name: value for name, value in row.items() if name != "samples_ms"} for row in found["latency"]]
    entry = {"build_s": round(built, 1), "runtime": found["runtime"], "latency": rows}
    alone = parity(network.answers[key][:1], logits[-1:])["cosine_min"]
    return {**entry, **network.held(logits[:-1], key), "cosine_at_batch_1": alone}


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


def beside(network: Network, rows: list[str], until: float, args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Rows of PyTorch and ONNX Runtime, in a process of their own; one that ends it is left out of the next."""
    script = Path(__file__).with_name("gpu_baseline.py")
    command = [sys.executable, str(script), str(network.folder), "--answers", str(args.output)]
    command += ["--device", args.device, "--rounds", str(args.rounds), "--until", str(until)]
    while rows:
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen([*command, "--rows", *rows], stdout=subprocess.PIPE, stderr=said, text=True)
            assert process.stdout is not None
            while rows:
                clock = threading.Timer(args.most, process.kill)
                clock.start()
                line = process.stdout.readline()
                clock.cancel()
                if not line:
                    break
                value = json.loads(line)["value"]
                if "answers" in value:
                    row = rows[0].split()
                    twin = row[1] if row[1] in network.answers else TWIN_OF_PYTORCH
                    value.update(network.held(np.load(value.pop("answers")), twin))
                yield rows.pop(0), value
            code = process.wait()
            if rows:
                said.seek(0)
                ended = f"it ended with {code} or took over {args.most:g} s: {said.read().strip()[-SAID:]}"
                yield rows.pop(0), {"failed": ended}


def unpacked(args: argparse.Namespace, results: Results) -> list[Network]:
    """The kit's networks: the one that matters most, then the small ones, which cost seconds."""
    sizes, found = {}, []
    for file in listed(args.kit, "*.json"):
        if file.stem != OWN_TENSORRT:
            sizes[file.stem] = sum(part.stat().st_size for part in listed(args.kit, f"{file.stem}.tar.xz.*"))
    for name in sorted(sizes, key=lambda name: (name != FIRST, sizes[name], name)):
        try:
            found.append(Network(unpack(args.kit, name, args.output / "kit")))
            results.data["networks"].get(name, {}).pop("unpacking", None)  # of a run before all of it was here
        except (OSError, ValueError, KeyError, lzma.LZMAError, tarfile.TarError) as error:  # noqa: PERF203
            results.put(name, "unpacking", {"failed": str(error)[:SAID]})
    return found


def find_tensorrt(args: argparse.Namespace) -> None:
    """Takes the kit's own TensorRT where it has one, and no other was named."""
    if args.python or not listed(args.kit, f"{OWN_TENSORRT}.json"):
        args.python = args.python or shlex.quote(sys.executable)
        return
    own = unpack(args.kit, OWN_TENSORRT, args.output / "kit")
    args.python, args.tactics = shlex.quote(str(own.resolve() / "python")), args.tactics or OWN_TACTICS


def in_order(networks: list[Network]) -> list[tuple[Network, str]]:
    """Every row, in order of worth: what decides about the first network, then INT8 of each, then the rest."""
    steps = [(TENSORRT[:2] + BESIDE, networks[:1])]
    steps += [(rows, networks) for rows in (TENSORRT[:1], TENSORRT[1:2], BESIDE, TENSORRT[2:])]
    return list(dict.fromkeys((network, row) for rows, which in steps for network in which for row in rows))


def check(args: argparse.Namespace, results: Results) -> None:
    """Every result, as long as there is time."""
    until = time.time() + args.seconds
    jobs = [
        (network, row)
        for network, row in in_order(unpacked(args, results))
        if row.startswith(tuple(args.only or ("",))) and not results.measured(network.name, row)
    ]
    for (network, ours), group in itertools.groupby(jobs, key=lambda job: (job[0], job[1] in TENSORRT)):
        rows = [row for _, row in group]
        if not ours:
            for row, value in beside(network, rows, until, args):
                results.put(network.name, row, value)
            continue
        for row in rows:
            if time.time() > until:
                results.put(network.name, row, NO_TIME)
                continue
            try:
                find_tensorrt(args)
                value = engine(network, row.split()[1], args)
            except Exception as error:  # one that fails must not cost the others their figures
                value = {"failed": f"{type(error).__name__}: {error}"[:SAID]}
            results.put(network.name, row, value)


def times(rows: dict[str, Any]) -> dict[tuple[str, int], float]:
    """Milliseconds of each runner and batch size, on the device's clock where it has one."""
    found = {}
    for row, value in rows.items():
        runner, _, size = row.rpartition(" b")
        timings = value.get("latency", [dict(value, batch=int(size))] if size.isdigit() else [])
        for timing in timings:
            ms = timing.get("device_p50_ms", timing.get("p50_ms"))
            if ms is not None:
                found[row if row in TENSORRT else runner, timing["batch"]] = ms
    return found


def table(data: dict[str, Any]) -> list[str]:
    """Milliseconds, how close the answers are, and what the rewriting gained."""
    lines = [f"{'network':20} {'runner':28} {'batch':>5} {'ms':>10}  top-1 and cosine against the CPU twin"]
    for network, rows in data["networks"].items():
        found = times(rows)
        for (runner, size), ms in sorted(found.items(), key=lambda item: (item[0][1], item[1])):
            held = (rows.get(runner) or rows[f"{runner} b{size}"])["against_cpu_twin"]
            said = f"{held['top1_agreement']:.3f}  {held['cosine_min']:.5f}"
            lines.append(f"{network:20} {runner:28} {size:5} {ms:10.3f}  {said}")
        for row, value in rows.items():
            if "failed" in value or "skipped" in value:
                lines.append(f"{network:20} {row:28} {' '.join((value.get('failed') or value['skipped']).split())}")
        for size in BATCHES:
            ours = found.get((TENSORRT[0], size))
            for runner in (TENSORRT[1], "pytorch compiled"):
                if ours and (runner, size) in found:
                    gain = found[runner, size] / ours
                    lines.append(f"{network:20} rewritten-int8 at batch {size}: {gain:.2f} times as fast as {runner}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kit", type=Path, help="the folder that make device-kit filled")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), help="takes the results, and the plans")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows that begin so: tensorrt, pytorch, onnxruntime")
    parser.add_argument("--seconds", type=float, default=600, help="starts nothing new after these")
    parser.add_argument("--most", type=float, default=300, help="seconds that one build, run or row may take")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--python", default="", help="the Python that has TensorRT, where it is not this one")
    parser.add_argument("--tactics", default="", help="run.py's --tactic-sources, such as none")
    parser.add_argument("--builder-level", type=int, help="run.py's: how long the builder may search, 0 to 5")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="of PyTorch and ONNX Runtime")
    args = parser.parse_args()
    if not listed(args.kit, "*.json"):
        print(f"error: {args.kit} holds no kit: make one with make device-kit", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    results = Results(args.output / "results.json")
    check(args, results)
    results.data["gpu_after"] = gpu_facts()
    results.write()
    print("\n".join(table(results.data)))
    print(f"Written to {results.path}")
    if not results.engines:
        print("error: no engine ran on a GPU here: the results say why", file=sys.stderr)
    return 0 if results.engines else 1


if __name__ == "__main__":
    sys.exit(main())
