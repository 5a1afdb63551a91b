"""Networks that are no classifiers, in INT8 beside FP32 and beside what others make of them. ``make bench-tasks``.

For each network of ``task_networks.py``: how many attention blocks were found of those that its authors wrote, how far
the rewritten graph's outputs are from the original's, and for ONNX Runtime and OpenVINO the engines of this project in
FP32 and INT8, as the command line builds them. Beside them stand ONNX Runtime's own ``quantize_static`` (QDQ, per
channel) and, with ``--nncf``, NNCF's mixed preset, which gets an environment of its own. SQNR is of each output over
the test images, in dB, against the original graph; milliseconds are medians of one interleaved run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.peers import peer_python
from benchmarks.task_networks import NETWORKS, TaskNetwork
from radixrt.build.deploy import DeployOptions, deploy_graph
from radixrt.calibration.int8 import sqnr_db
from radixrt.calibration.spec import CalibrationOptions, Recovery
from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.session import Session
from radixrt.errors import InputError
from radixrt.export.feed import IMAGE_INPUT, Feed, joined, length, part
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.randomise import fit_statistics
from radixrt.export.source.reference import onnx_outputs
from radixrt.export.spec import BatchSpec, Precision
from radixrt.options import DataOptions, ModelChoice
from radixrt.prepare import Prepared, prepare
from radixrt.progress import Stages
from radixrt.reuse import Reuse
from radixrt.validate.measure.latency import LatencyOptions, measure

RESULTS = Path(__file__).parent / "results" / "tasks.json"
TARGETS = ("onnxruntime", "openvino")
Answers = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], Answers]


def network_of(name: str, spec: TaskNetwork, args: argparse.Namespace, reuse: Reuse, folder: Path) -> Prepared:
    """Makes a network, fits its normalisations, and captures its graph."""
    import torch

    torch.manual_seed(0)
    made = spec.build(folder)
    size = ",".join(map(str, spec.size))
    data = DataOptions(
        data="elpv",
        input_size=size,
        calibration_images=args.calibration_images,
        test_images=args.test_images,
    )
    file = isinstance(made, Path)
    choice = ModelChoice(name=str(made) if file else name, module=None if file else made, task="tensors")
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


def quantised_by_onnxruntime(graph: Path, samples: Feed, folder: Path) -> Path:
    """Quantises an ONNX file by ``quantize_static``, as its documentation says to."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(range(length(samples)))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            index = next(self._left, None)
            return None if index is None else dict(part(samples, index, index + 1))

    ready, output = folder / "preprocessed.onnx", folder / "quantize_static.onnx"
    quant_pre_process(str(graph), str(ready))
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(ready), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return output


def quantised_by_nncf(graph: Path, images: NDArray[Any], folder: Path) -> Path:
    """Quantises an ONNX file by NNCF's mixed preset."""
    output = folder / "nncf.xml"
    np.save(folder / "images.npy", images)
    script = Path(__file__).with_name("quantise_nncf.py")
    command = [peer_python(), script, graph, folder / "images.npy", output]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return output


def run_of(session: Session) -> Run:
    """An open engine as a function."""
    return lambda feed: session.run(dict(feed))


def engines(
    network: Prepared, args: argparse.Namespace, folder: Path, stack: ExitStack, reuse: Reuse
) -> tuple[dict[str, Run], dict[str, Any]]:
    """Builds all that is compared, and says what was found in the graph."""
    stages = Stages(Console(stderr=True))
    found: dict[str, Run] = {}
    said: dict[str, Any] = {}
    calibration = joined(batch.inputs for batch in network.data.calibration.batches(8, args.calibration_images))
    for target in TARGETS:
        for precision in (Precision.FP32, Precision.INT8):
            options = DeployOptions(
                precision, target, "auto", 1, CalibrationOptions(), Recovery(outputs=network.network.floats)
            )
            graph = deploy_graph(network.graph, network.data.calibration, options, stages, reuse)
            files = folder / f"{target}-{precision.value}"
            files.mkdir()
            built = registry.get(target).build_graph(graph.model, files, BuildOptions(precision, threads=args.threads))
            session = stack.enter_context(registry.get(target).open(built.files[0], threads=args.threads))
            found[f"radixrt {target} {precision.value}"] = run_of(session)
            if precision is Precision.FP32 and target == TARGETS[0]:
                said["blocks"] = len(graph.rewrite.attention_blocks)
                said["refused"] = [f"{refusal.node}: {refusal.reason}" for refusal in graph.rewrite.refused]
                said["rewritten"] = graph.float32
            if graph.quantization is not None:
                said[f"{target} int8 layers"] = graph.quantization.quantized
                said[f"{target} float layers"] = len(graph.quantization.kept_float)
                said[f"{target} round trips"] = graph.quantization.float_round_trips
    plain = folder / "plain.onnx"
    write_onnx(network.graph, plain)
    rival = quantised_by_onnxruntime(plain, calibration, folder)
    session = stack.enter_context(registry.get("onnxruntime").open(rival, threads=args.threads))
    found["quantize_static onnxruntime int8"] = run_of(session)
    if args.nncf:
        (images,) = calibration.values()
        found["nncf openvino int8"] = _openvino(quantised_by_nncf(plain, images, folder), args.threads)
    return found, said


def _openvino(model: Path, threads: int) -> Run:
    """Opens a model in the quicker of the precisions that it may compute in beside INT8."""
    import openvino as ov

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    offered = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    config["INFERENCE_PRECISION_HINT"] = "bf16" if "BF16" in offered else "f32"
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(feed: Feed) -> dict[str, NDArray[Any]]:
        results = compiled(dict(feed))
        return {name: np.asarray(results[index]) for index, name in enumerate(names)}

    return run


def answers(run: Run, samples: Feed) -> dict[str, NDArray[Any]]:
    """Every output over samples, one at a time."""
    rows: list[Answers] = [run(part(samples, index, index + 1)) for index in range(length(samples))]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def compare(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs one network's comparison."""
    spec = NETWORKS[name]
    with ExitStack() as stack:
        reuse = stack.enter_context(Reuse(fresh=True))
        network = network_of(name, spec, args, reuse, folder)
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found, said = engines(network, args, work, stack, reuse)
        test = joined(batch.inputs for batch in network.test.batches(8, args.test_images))
        exact = answers(onnx_outputs(network.graph), test)
        rewritten = answers(onnx_outputs(said.pop("rewritten")), test)
        floats = network.network.floats
        apart = max(float(np.abs(exact[o] - rewritten[o]).max() / max(np.abs(exact[o]).max(), 1e-9)) for o in floats)
        sqnr = {
            engine: {o: round(sqnr_db(exact[o], given[o]), 1) for o in floats}
            for engine, run in found.items()
            if (given := answers(run, test))
        }
        row: dict[str, Any] = {
            "network": name,
            "input": spec.size,
            "blocks_written": spec.blocks,
            "rewritten_max_relative_difference": apart,
            **said,
            "sqnr_db": sqnr,
        }
        if not args.no_times:
            options = LatencyOptions(rounds=args.rounds, seconds=args.seconds, threads=args.threads)
            latency = measure(found, part(test, 0, 1), options)
            row["p50_ms"] = {timed.name: round(timed.p50_ms, 2) for timed in latency.rows}
            row["unsteady"] = list(latency.unsteady)
    return row


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    """Prints the comparison: of each engine the worst output's SQNR, and its milliseconds."""
    table = Table(title=f"INT8 of networks that are no classifiers, batch 1, {_processor()}")
    for column in ("network", "blocks", "rewritten differs", "engine", "lowest SQNR dB", "p50 ms"):
        table.add_column(column, justify="right" if column in ("lowest SQNR dB", "p50 ms") else "left", no_wrap=True)
    for row in rows:
        if "refusal" in row:
            table.add_row(row["network"], "", "", row["refusal"], "", "")
            continue
        head = (
            row["network"],
            f"{row['blocks']} of {row['blocks_written']}",
            f"{row['rewritten_max_relative_difference']:.1e}",
        )
        for engine, by_output in row["sqnr_db"].items():
            time_ = row.get("p50_ms", {}).get(engine)
            table.add_row(*head, engine, f"{min(by_output.values()):.1f}", "" if time_ is None else f"{time_:.2f}")
            head = ("", "", "")
    console.print(table)


def _processor() -> str:
    return registry.get("openvino").capability().device


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", help=f"by default all: {', '.join(NETWORKS)}")
    parser.add_argument("--calibration-images", type=int, default=32)
    parser.add_argument("--test-images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nncf", action="store_true", help="also NNCF, installed into build/peers/nncf at first")
    parser.add_argument("--no-times", action="store_true", help="on a machine that is busy")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    folder = Path("build") / "task-networks"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in args.networks or NETWORKS:
        try:
            rows.append(compare(name, args, folder))
        except InputError as refusal:
            rows.append({"network": name, "refusal": str(refusal)})
        result = {
            "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "processor": _processor(),
            "threads": args.threads,
            "versions": {library: version(library) for library in ("onnxruntime", "openvino")},
            "calibration_images": args.calibration_images,
            "test_images": args.test_images,
            "networks": rows,
        }
        # After each network: a run of an hour that is stopped leaves what it has.
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(Console(), rows)


if __name__ == "__main__":
    main()
