"""What the rewrite is worth: the original graph against the rewritten one, in one run. ``make bench-rewrite``.

For each model, on onnxruntime and openvino, in FP32 and INT8 at batch 1: both graphs are opened and timed in turn,
round by round; the ratio of their medians is printed with its 95 % interval over the rounds, and the share of the
original's time that its convolutions take. For tensorrt-rtx the FP16 plans of both graphs (batch 1, SM 8.6) are
compiled, which needs no GPU, and their kernels and the megabytes that these read and write are counted.

Weights are random: they do not change how long a convolution takes. INT8 ranges come from random images.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

from radixrt.calibration.placement.options import PlacementOptions, timed_layers
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.base import GRAPH_NAME, BuildOptions
from radixrt.engines.forms.choose import rewrite_options
from radixrt.engines.registry import get
from radixrt.engines.tensorrt.rtx.plan_cost import plan_cost
from radixrt.export.passes.float16 import to_float16
from radixrt.export.passes.pipeline import rewrite
from radixrt.export.passes.report import RewriteReport
from radixrt.export.spec import BatchSpec, Precision
from radixrt.validate.measure.latency import LatencyOptions, measure

MODELS = ("resnest50d", "resnest26d", "seresnext50_32x4d", "skresnext50_32x4d", "seresnet50", "skresnet34")
QUICK = ("resnest14d", "seresnet18")
RESULTS = Path(__file__).parent / "results" / "rewrite.json"
CLOCKED = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Timed:
    """One model on one target in one precision; ``ratio`` above 1 means that the rewritten graph is faster.

    ``convolution_share`` is what of the original's time the runtime's profile gives to convolutions, 0 to 1: as long as
    the convolutions stay what they are, no rewriting is worth more than its inverse.
    """

    model: str
    target: str
    precision: str
    original_p50_ms: float
    rewritten_p50_ms: float
    ratio: float
    ratio_ci95: tuple[float, float]
    unsteady: list[str]
    rounds: int
    nodes_before: int
    nodes_after: int
    grouped_convs: dict[str, int]
    convolution_share: float


@dataclass(frozen=True)
class Planned:
    """The FP16 plans of one model for TensorRT for RTX, batch 1, SM 8.6."""

    model: str
    kernels_before: int
    kernels_after: int
    megabytes_before: float
    megabytes_after: float
    nodes_before: int
    nodes_after: int


def capture_model(name: str, side: int) -> ir.Model:
    import timm
    import torch

    from radixrt.export.reader.simplify import simplify
    from radixrt.export.source.capture import capture
    from radixrt.export.source.module_inputs import ModuleInputs

    torch.manual_seed(0)
    return simplify(capture(timm.create_model(name).eval(), ModuleInputs.image((3, side, side)), BatchSpec()))


def typed(
    model: ir.Model, precision: Precision, target: str, side: int, report: RewriteReport | None = None
) -> ir.Model:
    """Gives a float graph the types of a precision, as a build does."""
    if precision is Precision.FP16:
        return to_float16(model).model
    if precision is Precision.FP32:
        return model
    name, random = model.graph.inputs[0].name or "", np.random.default_rng(0)
    images = random.standard_normal((4, 1, 3, side, side)).astype(np.float32)
    timed = timed_layers(report) if report else {}
    options = PlacementOptions(get(target).traits, timed=timed)
    placed, _ = place(model, calibrate(model, [{name: i} for i in images]), options)
    return placed


@contextlib.contextmanager
def compiled(model: ir.Model, target: str, options: BuildOptions) -> Iterator[tuple[Path, Path]]:
    """Builds an engine in a folder of its own; yields the files of its deploy graph and of the engine."""
    with tempfile.TemporaryDirectory() as scratch:
        engine = get(target).build_graph(model, Path(scratch), options).files[0]
        yield engine.with_name(GRAPH_NAME), engine


def convolution_share(target: str, engine: Path, deploy: Path, options: BuildOptions) -> float:
    times = {True: 0.0, False: 0.0}
    for row in get(target).inspect(engine, deploy, options).rows:
        times["Conv" in row.kind] += row.mean_us or 0.0
    return times[True] / (times[True] + times[False])


def clocked(name: str, graph: ir.Model, target: str, precision: Precision, args: argparse.Namespace) -> Timed:
    rewritten, report = rewrite(graph.clone(), rewrite_options(get(target), precision, cache=args.cache))
    images = np.random.default_rng(1).standard_normal((1, 3, args.side, args.side)).astype(np.float32)
    build = BuildOptions(precision=precision, threads=args.threads)
    with (
        compiled(typed(graph, precision, target, args.side), target, build) as (deploy, original),
        compiled(typed(rewritten, precision, target, args.side, report), target, build) as (_, changed),
    ):
        with (
            get(target).open(original, threads=args.threads) as before,
            get(target).open(changed, threads=args.threads) as after,
        ):
            runners = {
                "rewritten": lambda feed: after.run(dict(feed)),
                "original": lambda feed: before.run(dict(feed)),
            }
            options = LatencyOptions(
                baseline="original", rounds=args.rounds, seconds=args.seconds, warmup_seconds=args.seconds / 2
            )
            taken = measure(runners, {graph.graph.inputs[0].name or "": images}, options)
        share = convolution_share(target, original, deploy, build)
    p50 = {row.name: row.p50_ms for row in taken.rows}
    forms = [record.form for record in report.grouped_convs]
    return Timed(
        model=name,
        target=target,
        precision=precision.value,
        original_p50_ms=p50["original"],
        rewritten_p50_ms=p50["rewritten"],
        ratio=taken.speedup_p50,
        ratio_ci95=taken.speedup_ci95,
        unsteady=taken.unsteady,
        rounds=taken.method.rounds,
        nodes_before=report.nodes_before,
        nodes_after=report.nodes_after,
        grouped_convs={form: forms.count(form) for form in sorted(set(forms))},
        convolution_share=share,
    )


def planned(name: str, graph: ir.Model, args: argparse.Namespace) -> Planned:
    options = BuildOptions(precision=Precision.FP16)
    rewritten, report = rewrite(graph.clone(), rewrite_options(get("tensorrt-rtx"), Precision.FP16, cache=args.cache))
    costs = [
        plan_cost(ir.to_proto(typed(model, Precision.FP16, "tensorrt-rtx", args.side)).SerializeToString(), options)
        for model in (graph, rewritten)
    ]
    before, after = costs
    return Planned(
        model=name,
        kernels_before=before.kernels,
        kernels_after=after.kernels,
        megabytes_before=before.bytes_moved / 1e6,
        megabytes_after=after.bytes_moved / 1e6,
        nodes_before=report.nodes_before,
        nodes_after=report.nodes_after,
    )


def show(console: Console, rows: list[Timed], plans: list[Planned]) -> None:
    times = Table(title="Original graph against rewritten graph, batch 1, medians of interleaved rounds")
    for column in (
        "model",
        "target",
        "precision",
        "original ms",
        "rewritten ms",
        "ratio",
        "95 %",
        "convs",
        "nodes",
        "forms",
    ):
        times.add_column(column, justify="left" if column in ("model", "target", "precision", "forms") else "right")
    for row in rows:
        times.add_row(
            row.model,
            row.target,
            row.precision,
            f"{row.original_p50_ms:.2f}",
            f"{row.rewritten_p50_ms:.2f}",
            f"{row.ratio:.2f}x",
            "not steady" if row.unsteady else "{:.2f} to {:.2f}".format(*row.ratio_ci95),
            f"{100 * row.convolution_share:.0f} %",
            f"{row.nodes_before} -> {row.nodes_after}",
            ", ".join(f"{count} {form}" for form, count in row.grouped_convs.items()),
        )
    console.print(times)
    table = Table(title="TensorRT for RTX, FP16 plan, batch 1, SM 8.6 (compiled, not run)")
    for column in ("model", "kernels", "megabytes moved", "nodes"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for plan in plans:
        table.add_row(
            plan.model,
            f"{plan.kernels_before} -> {plan.kernels_after}",
            f"{plan.megabytes_before:.1f} -> {plan.megabytes_after:.1f}",
            f"{plan.nodes_before} -> {plan.nodes_after}",
        )
    console.print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"timm names; by default {', '.join(MODELS)}")
    parser.add_argument("--quick", action="store_true", help="two small models, 64x64 images, few rounds")
    parser.add_argument("--side", type=int, default=224, help="side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=8.0, help="at most, for one model, target and precision")
    parser.add_argument("--threads", type=int, default=0, help="0 is the runtime's choice")
    parser.add_argument("--targets", nargs="*", default=[*CLOCKED, "tensorrt-rtx"])
    parser.add_argument("--cache", type=Path, default=None, help="file of measured forms; the user's cache by default")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.quick:
        args.models, args.side = args.models or list(QUICK), 64
        args.rounds, args.seconds = min(args.rounds, 12), min(args.seconds, 3.0)
    args.models = args.models or list(MODELS)
    return args


def main() -> None:
    args = arguments()
    console = Console(width=None if sys.stdout.isatty() else 140)
    rows: list[Timed] = []
    plans: list[Planned] = []
    skipped: dict[str, str] = {}
    for target in args.targets:
        capability = get(target).capability()
        if not (capability.builds if target == "tensorrt-rtx" else capability.runs):
            skipped[target] = capability.reason
            console.print(f"{target} is skipped: {capability.reason}")
    for name in args.models:
        with console.status(f"{name}: exporting"):
            graph = capture_model(name, args.side)
        for target in (t for t in args.targets if t not in skipped):
            with console.status(f"{name} on {target}"):
                if target == "tensorrt-rtx":
                    plans.append(planned(name, graph, args))
                    continue
                for precision in (Precision.FP32, Precision.INT8):
                    rows.append(clocked(name, graph, target, precision, args))
                    console.print(f"{name}, {target}, {precision.value}: {rows[-1].ratio:.2f}x")
    show(console, rows, plans)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.processor() or platform.machine(),
        "image_side": args.side,
        "threads": args.threads,
        "skipped": skipped,
        "timed": [asdict(row) for row in rows],
        "planned": [asdict(plan) for plan in plans],
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"Written to {args.output}")


if __name__ == "__main__":
    main()
