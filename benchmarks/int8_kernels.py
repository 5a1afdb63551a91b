"""INT8 on ONNX Runtime: which kernels run, and what signed weights are worth. ``make bench-int8-kernels``.

Each network is built three times for onnxruntime: in FP32, in INT8 as it ships, and in INT8 with the weights as they
were before: u8 around 128 beside activations around 128, and behind a DequantizeLinear that ONNX Runtime runs each
time where it has no INT8 kernel. All three run on one thread in turn, round by round. What counts is that thread's
processor time, which a busy machine disturbs less than the clock's; a ratio is given of the least times, and as the
median over the rounds. The kernels are counted in the graph that ONNX Runtime optimised.

Weights are random, which does not change how long a layer takes; SQNR of random networks says nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from benchmarks.rewrite import capture_model, typed
from radixrt.calibration.int8 import UNSIGNED_ZERO_POINT
from radixrt.calibration.int8 import to_unsigned as around_128
from radixrt.engines.base import GRAPH_NAME, BuildOptions
from radixrt.engines.cpu.float_layers import keep_float_layers
from radixrt.engines.cpu.onnxruntime import OnnxRuntimeSession, session_options
from radixrt.engines.cpu.unsigned import to_unsigned
from radixrt.engines.forms.choose import rewrite_options
from radixrt.engines.registry import get
from radixrt.engines.rounds import one_round
from radixrt.export.graph.constants import array_of
from radixrt.export.passes.pipeline import rewrite
from radixrt.export.spec import Precision

MODELS = ("mobilenetv3_large_100", "efficientnet_b0", "resnest50d", "seresnext50_32x4d")
FLOAT, NOW, BEFORE = "FP32", "INT8", "INT8, weights as before"


def engines(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Builds the three engines of a network and returns their files."""
    target, captured, files = get("onnxruntime"), capture_model(name, args.side), {}
    for label, precision in ((FLOAT, Precision.FP32), (NOW, Precision.INT8)):
        model, report = rewrite(captured.clone(), rewrite_options(target, precision, cache=args.cache, threads=1))
        home = folder / precision.value
        build = BuildOptions(precision, threads=1)
        files[label] = target.build_graph(typed(model, precision, target.name, args.side, report), home, build).files[0]
    before = to_unsigned(ir.load(files[NOW].with_name(GRAPH_NAME)))
    unsigned_weights(before)
    keep_float_layers(before)
    files[BEFORE] = folder / "before.onnx"
    ir.save(before, files[BEFORE])
    return files


def unsigned_weights(model: ir.Model) -> None:
    """Turns s8 weights beside activations around 128 into u8 around 128, in place."""
    for node in model.graph:
        data, weight = (value.producer() if value is not None else None for value in (*node.inputs, None, None)[:2])
        if data is None or weight is None or {data.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        zero, stored, zeros = data.inputs[2], weight.inputs[0], weight.inputs[2]
        if zero is None or stored is None or zeros is None or array_of(zero).item() != UNSIGNED_ZERO_POINT:
            continue
        if stored.dtype is ir.DataType.INT8:
            for value in (stored, zeros):
                value.const_value = ir.tensor(around_128(array_of(value)), name=value.name)
                value.type = ir.TensorType(ir.DataType.UINT8)


def kernels(engine: Path, folder: Path) -> Counter[str]:
    """Counts the operators that ONNX Runtime runs, layouts included; convolutions by the type of their weights."""
    options = session_options(1)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    graph = ir.load(folder / "optimised.onnx").graph
    found: Counter[str] = Counter()
    for node in graph:
        kind, weights = node.op_type, node.inputs[3] if node.op_type == "QLinearConv" else None
        if weights is not None and weights.dtype is not None:
            kind += f" {weights.dtype.name}"
        elif kind == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].is_initializer():
            kind += " of weights"
        found[kind] += 1
    return found


def clocked(files: dict[str, Path], args: argparse.Namespace) -> dict[str, list[float]]:
    """Times engines in turn. Returns milliseconds of the processor, one of each round."""
    times: dict[str, list[float]] = {name: [] for name in files}
    slots: list[tuple[str, Callable[[], object]]] = []
    for name, file in files.items():
        session = OnnxRuntimeSession(file, 1)
        (spec,) = session.inputs
        image = np.random.default_rng(1).standard_normal([max(size, 1) for size in spec.shape]).astype(np.float32)
        slots.append((name, lambda session=session, feeds={spec.name: image}: session.run(feeds)))  # type: ignore[misc]
    for turn in range(-args.warmup, args.rounds):
        for name, seconds in one_round(slots, turn % len(slots), time.thread_time):
            if turn >= 0:
                times[name].append(1000 * seconds)
    return times


def processor() -> str:
    """Names the processor and those of its instructions that INT8 kernels differ by."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = ("avx2", "avx512bw", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")
    return f"{said['model name']}: {' '.join(flag for flag in known if flag in said['flags'].split())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=10, help="rounds before those that count")
    parser.add_argument("--cache", type=Path, default=None, help="of measured forms")
    args = parser.parse_args()
    console = Console()
    console.print(f"{processor()}; onnxruntime {ort.__version__}, one thread, {args.side}x{args.side}, batch 1")
    for name in args.models:
        with tempfile.TemporaryDirectory() as scratch:
            files = engines(name, Path(scratch), args)
            times = clocked(files, args)
            counts = {label: kernels(file, Path(scratch)) for label, file in files.items()}
        table = Table(title=f"{name}: {args.rounds} rounds, load {os.getloadavg()[0]:.1f}")
        for column in ("engine", "least ms", "median ms", "FP32 / it, least", "FP32 / it, median"):
            table.add_column(column, justify="left" if column == "engine" else "right")
        for label, taken in times.items():
            paired = statistics.median(a / b for a, b in zip(times[FLOAT], taken, strict=True))
            least = min(times[FLOAT]) / min(taken)
            table.add_row(
                label, f"{min(taken):.2f}", f"{statistics.median(taken):.2f}", f"{least:.2f}", f"{paired:.2f}"
            )
        console.print(table)
        for label, found in counts.items():
            console.print(f"{label}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(found.items())))


if __name__ == "__main__":
    main()
