"""Networks that are no classifiers, in INT8 beside FP32 and beside what others make of them. ``make bench-tasks``.

For each network of ``task_networks.py``: how many attention blocks were found of those that its authors wrote, how far
the rewritten graph's outputs are from the original's, and for ONNX Runtime and OpenVINO the engines of this project in
FP32 and INT8, as the command line builds them. Beside them stand the original in ONNX Runtime, ONNX Runtime's own
``quantize_static`` (QDQ, per channel), and NNCF's mixed preset in each precision that OpenVINO computes in beside INT8,
which gets an environment of its own. SQNR is of each output over the test images, in dB, against the original graph.
The figure of the task is by labels where the network is trained, else by the original's own answers. Milliseconds are
medians of one interleaved run for each number of threads.

A row is a part of some minutes, and may be taken alone: ``make bench-tasks ARGS="paddleocr-detector"``. The others of
benchmarks/results/tasks.json stay as they are; each says its processor and its commit. Engines lie under
build/task-networks/NETWORK, so that ``--no-times`` on a busy machine and ``--times-only`` on a quiet one make one row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.rivals import attempted
from benchmarks.task_engines import BATCH, ENGINES, ORIGINAL_FILE, REWRITTEN, Answers, Run, build, opened, plan_of
from benchmarks.task_networks import NETWORKS, TaskNetwork
from radixrt.calibration.data.batch import Batch
from radixrt.calibration.int8 import power_ratio_db
from radixrt.errors import InputError
from radixrt.export.feed import IMAGE_INPUT, Feed, part
from radixrt.export.graph.output_kind import OutputKind
from radixrt.export.graph.session import onnx_outputs
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.randomise import fit_statistics
from radixrt.export.spec import BatchSpec, Precision
from radixrt.machine import instructions, machine
from radixrt.options import DataOptions, ModelChoice
from radixrt.prepare.network import Prepared, prepare
from radixrt.progress import Stages
from radixrt.reuse import Reuse
from radixrt.validate.measure.latency import LatencyOptions, measure
from radixrt.validate.quality import main_metric
from radixrt.validate.tasks.base import Trust

FOLDER = Path("build") / "task-networks"
RESULTS = Path(__file__).parent / "results" / "tasks.json"


def network_of(name: str, spec: TaskNetwork, args: argparse.Namespace, reuse: Reuse) -> Prepared:
    """Makes a network, fits its normalisations, and captures its graph."""
    import torch

    torch.manual_seed(0)
    made = spec.build(FOLDER)
    data = DataOptions(
        data="elpv" if spec.data is None else spec.data(FOLDER),
        input_size=",".join(map(str, spec.size)),
        mean=None if spec.pixels is None else spec.pixels[0],
        std=None if spec.pixels is None else spec.pixels[1],
        crop_pct=None if spec.data is None else 1.0,
        interpolation=None if spec.data is None else "bilinear",
        calibration_images=args.calibration_images,
        test_images=args.test_images,
    )
    file = isinstance(made, Path)
    choice = ModelChoice(name=str(made) if file else name, module=None if file else made, task=spec.task)
    if not file:
        fit_statistics(made, ModuleInputs.image(spec.size), [random_images(spec.size)])
    return prepare(choice, data, BatchSpec(), Stages(Console(stderr=True)), reuse)


def random_images(size: tuple[int, int, int], count: int = 8) -> Feed:
    """Normalised images of noise, from coarse to fine, so that a network's maps vary from place to place."""
    random, (channels, height, width) = np.random.default_rng(0), size
    images = np.zeros((count, channels, height, width))
    for step in (1, 4, 16):
        coarse = random.standard_normal((count, channels, -(-height // step), -(-width // step)))
        images += coarse.repeat(step, 2).repeat(step, 3)[:, :, :height, :width]
    return {IMAGE_INPUT: (images / images.std()).astype(np.float32)}


def _one_by_one(run: Run, batch: Batch) -> dict[str, NDArray[Any]]:
    """Every output of a batch, an image at a time."""
    rows: list[Answers] = [run(part(batch.inputs, index, index + 1)) for index in range(len(batch.names))]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


class _Held:
    """How one engine stands to the original: its outputs' noise, the task's figure, the overlap of what they find."""

    def __init__(self, network: Prepared, spec: TaskNetwork) -> None:
        self._network, self._metric = network, spec.metric
        interface = replace(network.network, labelled=True)
        self._judge = network.task.task.judge(interface, Trust(True, 1.0))
        self._powers = {name: np.zeros(2) for name in network.network.floats}
        self._found: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def add(self, exact: Answers, answers: Answers, batch: Batch) -> None:
        for name, powers in self._powers.items():
            signal = exact[name].astype(np.float64)
            powers += np.square(signal).sum(), np.square(signal - answers[name]).sum()
        if self._metric is not None:
            self._found.append((exact[self._network.network.main], answers[self._network.network.main]))
        self._judge.add(exact, answers, batch)

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "sqnr_db": {name: round(power_ratio_db(*powers), 1) for name, powers in self._powers.items()}
        }
        metrics = self._judge.result().metrics
        metric = main_metric(metrics) or next(iter(metrics), None)
        if metric is not None:
            found["metric"] = {"title": metric.title, "original": metric.reference, "engine": metric.engine}
        if self._metric is not None:
            theirs, mine = map(np.concatenate, zip(*self._found, strict=True))
            found["mask_iou"] = round(self._metric(theirs, mine, None), 4)
        return found


def judged(network: Prepared, spec: TaskNetwork, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Holds every engine against the original on the test images."""
    task, labelled = network.task.task, network.labelled
    apart, held = 0.0, dict[str, _Held]()
    with ExitStack() as stack:
        runs = opened(folder, args.build_threads, stack)
        exact_run = onnx_outputs(network.graph)
        rewritten = onnx_outputs(ir.load(folder / REWRITTEN)) if (folder / REWRITTEN).exists() else None
        for batch in network.test.batches(BATCH, args.test_images):
            exact = _one_by_one(exact_run, batch)
            targets = batch.targets if labelled else task.truth(network.network, exact)
            told = replace(batch, targets=targets)
            for name, run in runs.items():
                held.setdefault(name, _Held(network, spec)).add(exact, _one_by_one(run, batch), told)
            if rewritten is not None:
                found = _one_by_one(rewritten, batch)
                differences = (np.abs(exact[o] - found[o]).max() / _whole(network, o, exact[o]) for o in found)
                apart = max(apart, *map(float, differences))
    return {
        "rewritten_max_relative_difference": apart if rewritten is not None else None,
        "by_labels": labelled,
        "engines": {name: one.figures() for name, one in held.items()},
    }


def _whole(network: Prepared, output: str, numbers: NDArray[Any]) -> float:
    """What a difference of an output is a share of: its largest number, or 1 where it lies between 0 and 1.

    ONNX Runtime's sigmoid is exact to some 1e-7, whatever its result. Where no text is found, a detector's scores
    are of 1e-5 at most, of which that would be a large share.
    """
    if network.kinds.get(output) in (OutputKind.SCORES, OutputKind.PROBABILITIES):
        return 1.0
    return max(float(np.abs(numbers).max()), 1e-9)


def timed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Milliseconds of every engine in one interleaved run, for each number of threads."""
    with np.load(folder / "image.npz") as stored:
        image = dict(stored)
    found: dict[str, Any] = {}
    for threads in args.threads:
        with ExitStack() as stack:
            runs = opened(folder, threads, stack)
            options = LatencyOptions(rounds=args.rounds, seconds=args.seconds, threads=threads)
            latency = measure(runs, image, options)
        found[str(threads)] = {
            "p50_ms": {row.name: round(row.p50_ms, 2) for row in latency.rows},
            "unsteady": list(latency.unsteady),
        }
    return found


def row_of(name: str, args: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """One network's row: built, judged and timed, or timed alone."""
    spec, folder = NETWORKS[name], FOLDER / name
    row = known
    if not args.times_only:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with Reuse(fresh=True) as reuse:
            try:
                network = network_of(name, spec, args, reuse)
            except InputError as refusal:
                return {**_taken(args), "refusal": str(refusal)}
            image: dict[str, Any] = dict(next(network.test.batches(1)).inputs)
            np.savez(folder / "image.npz", **image)
            said = build(network, args, folder, reuse)
            row = {**_taken(args), "input": spec.size, "blocks_written": spec.blocks, "task": spec.task, **said}
            row |= judged(network, spec, args, folder)
    if not args.no_times:
        row["times"] = timed(args, folder)
        row["timed"] = _taken(args)
    return row


def plans(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The FP16 and INT8 plans of TensorRT for RTX, compiled and not run: their sizes, or why there is none."""
    spec, original = NETWORKS[name], FOLDER / name / ORIGINAL_FILE
    found: dict[str, Any] = {"version": version("tensorrt-rtx"), "taken": _taken(args)}
    with Reuse() as reuse:
        made = replace(spec, build=lambda _: original) if original.exists() else spec
        network = network_of(name, made, args, reuse)
        for precision in (Precision.FP16, Precision.INT8):
            plan = attempted(partial(plan_of, network, precision, reuse))
            found[precision.value] = {"refusal": plan} if isinstance(plan, str) else plan
    return found


def _taken(args: argparse.Namespace) -> dict[str, Any]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()

    return {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": f"{machine()}: {' '.join(instructions())}",
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else ""),
        "versions": {library: version(library) for library in ("onnxruntime", "openvino", "torch")},
        "calibration_images": args.calibration_images,
        "test_images": args.test_images,
    }


def show(console: Console, rows: Mapping[str, dict[str, Any]]) -> None:
    """Prints the rows: of each engine the worst output's SQNR, the task's figure, and its milliseconds."""
    table = Table(title="INT8 of networks that are no classifiers, batch 1")
    threads = sorted({count for row in rows.values() for count in row.get("times", {})})
    times = [f"ms, {count} thread{'s' if count != '1' else ''}" for count in threads]
    for column in ("network", "blocks", "rewritten differs", "engine", "lowest SQNR dB", "figure", *times):
        right = column in ("lowest SQNR dB", *times)
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "figure")
    for name, row in rows.items():
        for cells in _lines(name, row, threads):
            table.add_row(*cells)
    console.print(table)
    for name, row in rows.items():
        for engine, why in row.get("failed", {}).items():
            console.print(f"{name}, {engine}: {why}")
        for precision in ("fp16", "int8"):
            if found := row.get("plans", {}).get(precision):
                said = found.get("refusal") or f"{found['megabytes']:.1f} MB, {found['kernels']} kernels"
                said += f", {found['int8_layers']} layers in INT8" if "int8_layers" in found else ""
                console.print(f"{name}, {precision} plan of TensorRT for RTX {row['plans']['version']}: {said}")


def _lines(name: str, row: dict[str, Any], threads: list[str]) -> Iterator[list[str]]:
    if "engines" not in row:
        yield [name, "", "", row.get("refusal", "not run"), "", "", *("" for _ in threads)]
        return
    apart = row["rewritten_max_relative_difference"]
    head = [name, f"{row.get('blocks', '?')} of {row['blocks_written']}", "" if apart is None else f"{apart:.1e}"]
    for engine, held in row["engines"].items():
        figure = []
        if "metric" in held:
            figure.append(f"{held['metric']['title']} {held['metric']['engine']:.4f}")
        if "mask_iou" in held:
            figure.append(f"IoU with the original {held['mask_iou']:.3f}")
        took = [row.get("times", {}).get(count, {}).get("p50_ms", {}).get(engine) for count in threads]
        worst = min(held["sqnr_db"].values())
        yield [*head, engine, f"{worst:.1f}", ", ".join(figure), *("" if t is None else f"{t:.2f}" for t in took)]
        head = ["", "", ""]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"by default all: {', '.join(NETWORKS)}")
    parser.add_argument("--calibration-images", type=int, default=32)
    parser.add_argument("--test-images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the engines that are timed")
    parser.add_argument("--build-threads", type=int, default=0, help="of what is built and judged; 0: the runtimes'")
    parser.add_argument("--nncf", action="store_true", help="also NNCF, installed into build/peers/nncf at first")
    parser.add_argument("--no-times", action="store_true", help="on a machine that is busy")
    parser.add_argument("--times-only", action="store_true", help="of engines that an earlier run left")
    parser.add_argument("--plans", action="store_true", help="compile plans of TensorRT for RTX, and nothing else")
    parser.add_argument("--show", action="store_true", help="print what was found before, and run nothing")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if unknown := sorted({*args.networks} - {*NETWORKS}):
        parser.error(f"there is no network {', '.join(unknown)}: choose from {', '.join(NETWORKS)}")
    if args.times_only and (missing := [n for n in args.networks or NETWORKS if not (FOLDER / n / ENGINES).exists()]):
        parser.error(f"nothing was built for {', '.join(missing)}: run without --times-only first")
    return args


def main() -> None:
    args, console = arguments(), Console()
    rows: dict[str, Any] = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {}
    names = args.networks or list(NETWORKS)
    for name in [] if args.show else names:
        if args.plans:
            rows[name] = {**rows.get(name, {}), "plans": plans(name, args)}
        else:
            rows[name] = row_of(name, args, rows.get(name, {}))
        # After each network: a run of an hour that is stopped leaves what it has.
        args.output.parent.mkdir(parents=True, exist_ok=True)
        kept = {known: rows[known] for known in NETWORKS if known in rows}
        args.output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    show(console, {name: rows[name] for name in names if name in rows})


if __name__ == "__main__":
    main()
