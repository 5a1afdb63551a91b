"""INT8 over FP32 of the same runtime, by threads, and which kernels run. ``make bench-int8-kernels``.

Each network is built for ONNX Runtime and OpenVINO in every precision that they compute in here, once for each number
of threads: equal forms are chosen by the clock, with that many. All engines of a number of threads run in turn, round
by round. Each is set against the same runtime's FP32; that engine is of the network without what is done for INT8
alone. ONNX Runtime's operators are counted in the graph that it optimised.

Weights are random, which does not change how long a layer takes. SQNR is of the first output, on eight images of noise:
it compares two builds of one network and says nothing of accuracy. Results of earlier runs on the same processor stay
in the file and are shown too; those of another processor are replaced.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from benchmarks.networks import Run, runner
from benchmarks.rewrite import capture_model, typed
from radixrt.calibration.int8 import sqnr_db
from radixrt.engines.base import BuildOptions, Target
from radixrt.engines.cpu.onnxruntime import session_options
from radixrt.engines.forms.choose import rewrite_options
from radixrt.engines.registry import get
from radixrt.export.feed import part
from radixrt.export.passes.pipeline import rewrite
from radixrt.export.spec import Precision
from radixrt.machine import instructions, machine
from radixrt.validate.measure.latency import LatencyOptions, measure
from radixrt.validate.measure.rounds import ratio

NETWORKS = ("mobilenetv3_large_100@128", "mobilenetv3_large_100@224", "efficientnet_b0@224")
TARGETS = ("onnxruntime", "openvino")
RESULTS = Path(__file__).parent / "results" / "int8_kernels.json"
TEST_IMAGES = 8


class Timing(BaseModel):
    """One engine.

    Attributes:
        over_fp32: above 1 it is faster than FP32 on the same runtime; with its 95 % interval.
        sqnr_db: held against that engine; None of itself.
        kernels: operators by name, convolutions by the type of their weights; of ONNX Runtime alone.
    """

    network: str
    target: str
    threads: int
    precision: str
    p50_ms: float
    over_fp32: tuple[float, float, float]
    sqnr_db: float | None
    unsteady: list[str]
    kernels: dict[str, int] = {}


class Results(BaseModel):
    """What one processor printed."""

    processor: str
    instructions: tuple[str, ...]
    versions: dict[str, str]
    taken: str
    timings: list[Timing] = []


def engine(graph: ir.Model, target: Target, precision: Precision, threads: int, folder: Path, cache: Path) -> Path:
    """Builds one engine of a captured network and returns its file."""
    model, report = rewrite(graph.clone(), rewrite_options(target, precision, cache=cache, threads=threads))
    side = graph.graph.inputs[0].shape[-1]  # type: ignore[index]
    home = folder / f"{target.name}-{precision.value}"
    deploy = typed(model, precision, target.name, int(side), report)  # type: ignore[arg-type]
    return target.build_graph(deploy, home, BuildOptions(precision, threads=threads)).files[0]


def kernels(engine: Path, folder: Path) -> Counter[str]:
    """Counts the operators that ONNX Runtime runs, layouts included; convolutions by the type of their weights."""
    options = session_options(1)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    found: Counter[str] = Counter()
    for node in ir.load(folder / "optimised.onnx").graph:
        kind, weights = node.op_type, node.inputs[3] if node.op_type == "QLinearConv" else None
        if weights is not None and weights.dtype is not None:
            kind += f" {weights.dtype.name}"
        elif kind == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].is_initializer():
            kind += " of weights"
        found[kind] += 1
    return found


def timings(network: str, graph: ir.Model, threads: int, args: argparse.Namespace) -> Iterator[Timing]:
    """Builds and times every engine of a network with a number of threads."""
    (source,) = graph.graph.inputs
    shape = [TEST_IMAGES, *source.shape[1:]]  # type: ignore[index]
    images = {source.name or "": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    runs: dict[tuple[str, str], Run] = {}
    counts: dict[tuple[str, str], Counter[str]] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for target in map(get, args.targets):
            for precision in target.precisions():
                key = target.name, precision.value
                file = engine(graph, target, precision, threads, scratch, args.cache)
                runs[key] = runner(stack.enter_context(target.open(file, threads=threads)))
                counts[key] = kernels(file, scratch) if target.name == "onnxruntime" else Counter()
        answers = {key: _answers(run, images) for key, run in runs.items()}
        options = LatencyOptions(rounds=args.rounds, seconds=args.seconds, threads=threads)
        taken = measure({" ".join(key): run for key, run in runs.items()}, images, options)
    rows = {row.name: row for row in taken.rows}
    for key, count in counts.items():
        own, base = rows[" ".join(key)], rows[f"{key[0]} {Precision.FP32.value}"]
        yield Timing(
            network=network,
            target=key[0],
            threads=threads,
            precision=key[1],
            p50_ms=own.p50_ms,
            over_fp32=ratio(base.samples_ms, own.samples_ms),
            sqnr_db=None if base is own else sqnr_db(answers[key[0], Precision.FP32.value], answers[key]),
            unsteady=taken.unsteady,
            kernels=dict(sorted(count.items())),
        )


def _answers(run: Run, images: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([run(part(images, i, i + 1)) for i in range(TEST_IMAGES)])


def show(console: Console, results: Results) -> None:
    """Prints a table: a row for each network and precision, a column for each runtime and number of threads."""
    console.print(f"{results.processor}: {', '.join(results.instructions) or 'no instructions for INT8'}")
    console.print(", ".join(f"{name} {number}" for name, number in results.versions.items()))
    columns = sorted({(t.target, t.threads) for t in results.timings})
    short = {"onnxruntime": "ORT", "openvino": "OV"}
    table = Table(title="median ms, batch 1 (times as fast as the same runtime's FP32; * not steady)")
    for title in ("network", "precision", *(f"{short[target]} {threads}t" for target, threads in columns), "SQNR dB"):
        table.add_column(title, justify="left" if title in ("network", "precision") else "right")
    for network, precision in dict.fromkeys((t.network, t.precision) for t in results.timings):
        row = {(t.target, t.threads): t for t in results.timings if (t.network, t.precision) == (network, precision)}
        cells = [_cell(row.get(column)) for column in columns]
        exact = {target: f"{t.sqnr_db:.1f}" for (target, _), t in row.items() if t.sqnr_db is not None}
        table.add_row(network, precision, *cells, " / ".join(exact.values()))
    console.print(table)
    for t in results.timings:
        if t.kernels and t.precision == Precision.INT8.value:
            counted = ", ".join(f"{count} {kind}" for kind, count in t.kernels.items())
            console.print(f"{t.network}, {t.threads} threads, {t.target} {t.precision}: {counted}")


def _cell(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{timing.p50_ms:.2f} ({timing.over_fp32[0]:.2f}x){'*' if timing.unsteady else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", nargs="+", default=NETWORKS, help="names of timm, each with @ and a side in pixels"
    )
    parser.add_argument("--targets", nargs="+", default=TARGETS, choices=TARGETS)
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=8.0, help="at most, for one network and number of threads")
    parser.add_argument("--cache", type=Path, default=None, help="file of measured forms; the user's cache by default")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    console = Console()
    here = Results(
        processor=machine(),
        instructions=instructions(),
        versions={library: version(library) for library in ("onnxruntime", "openvino")},
        taken=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    if args.output.exists():
        before = Results.model_validate_json(args.output.read_bytes())
        if (before.processor, before.versions) == (here.processor, here.versions):
            here = here.model_copy(update={"timings": before.timings})
    for network in args.networks:
        name, _, side = network.partition("@")
        graph = capture_model(name, int(side or 224))
        for threads in args.threads:
            new = list(timings(network, graph, threads, args))
            made = {(t.network, t.target, t.threads) for t in new}
            old = [t for t in here.timings if (t.network, t.target, t.threads) not in made]
            here = here.model_copy(update={"timings": [*old, *new]})
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(here.model_dump_json(indent=1) + "\n", encoding="utf-8")
    show(console, here)


if __name__ == "__main__":
    main()
