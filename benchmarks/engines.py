"""OpenVINO INT8 of this project against NNCF's INT8 of the unmodified network, in one run. ``make bench-engines``.

Both are opened by OpenVINO with the same options and timed in turn, round by round, on the same images; NNCF's in each
inference precision that OpenVINO offers here, of which the better one counts. Beside them stand PyTorch eager and ONNX
Runtime in FP32 and INT8. Parity of each with PyTorch is taken on the same test images: faster and worse would prove
nothing.

NNCF runs in an environment of its own (build/peers/nncf), made by the first run, so that its pins touch nothing here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.networks import Run, Setting, built, prepared, runner, test_images
from radixrt.engines import registry
from radixrt.engines.runners import logits_of
from radixrt.export.feed import IMAGE_INPUT, joined, length, part
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.spec import Precision
from radixrt.reuse import Reuse
from radixrt.validate.measure.latency import LatencyOptions, measure
from radixrt.validate.measure.parity import parity
from radixrt.validate.measure.rounds import ratio
from radixrt.validate.schema import Parity

ROOT = Path(__file__).parents[1]
PEER = ROOT / "build" / "peers" / "nncf"
RESULTS = Path(__file__).parent / "results" / "engines.json"
OURS, THEIRS = "radixrt openvino int8", "nncf openvino int8"


def peer_python() -> Path:
    """Returns the Python that has NNCF, and makes its environment where it is missing."""
    python = PEER / "bin" / "python"
    if not (PEER / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        wanted = ["nncf", f"openvino=={version('openvino')}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (PEER / ".ready").touch()
    return python


def nncf_model(graph: Path, images: NDArray[np.float32], folder: Path) -> tuple[Path, str]:
    """Returns NNCF's INT8 model of an ONNX file, and NNCF's version."""
    np.save(folder / "images.npy", images)
    output = folder / "nncf.xml"
    command = [str(peer_python()), str(Path(__file__).with_name("quantise_nncf.py"))]
    command += [str(graph), str(folder / "images.npy"), str(output)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return output, said.strip().splitlines()[-1]


def openvino_runner(model: Path, threads: int, precision: str) -> Run:
    """Opens a model as this project's own engines are opened, in a given inference precision."""
    import openvino as ov

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": precision}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    request = compiled.create_infer_request()
    return lambda feed: np.array(request.infer(dict(feed), share_inputs=True, share_outputs=True)[0])


def runners(args: argparse.Namespace, folder: Path, stack: ExitStack) -> tuple[dict[str, Run], Any, str]:
    """Builds everything that is compared; ours first."""
    setting = Setting(args.data, args.input_size, args.calibration_images, args.test_images, args.threads)
    reuse = stack.enter_context(Reuse())
    network = prepared(args.model, setting, reuse)
    found: dict[str, Run] = {}
    for target, precision in (("openvino", "int8"), ("onnxruntime", "int8"), ("onnxruntime", "fp32")):
        engine = built(network, Precision(precision), target, folder / f"{target}-{precision}", setting, reuse)
        session = stack.enter_context(registry.get(target).open(engine.files[0], threads=args.threads))
        found[f"radixrt {target} {precision}"] = runner(session)
    unmodified = folder / "unmodified.onnx"
    write_onnx(network.graph, unmodified)
    batches = network.data.calibration.batches(8, args.calibration_images)
    calibration = joined(batch.inputs for batch in batches)[IMAGE_INPUT]
    model, nncf = nncf_model(unmodified, calibration, folder)
    for precision in inference_precisions():
        found[f"{THEIRS} + {precision}"] = openvino_runner(model, args.threads, precision)
    found["pytorch eager fp32"] = logits_of(network.reference.run)
    return found, network, nncf


def inference_precisions() -> tuple[str, ...]:
    """Returns what OpenVINO can compute in here beside INT8: BF16 only where the processor has it."""
    import openvino as ov

    offered = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(
        name for name in ("f32", "bf16", "f16") if {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}[name] in offered
    )


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the whole comparison and returns what is written down."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found, network, nncf = runners(args, folder, stack)
        images = test_images(network, args.test_images)
        answers = {
            name: np.concatenate([run(part(images, i, i + 1)) for i in range(length(images))])
            for name, run in found.items()
        }
        parities: dict[str, Parity] = {
            name: parity(answers["pytorch eager fp32"], answer) for name, answer in answers.items()
        }
        options = LatencyOptions(
            baseline="pytorch eager fp32", rounds=args.rounds, seconds=args.seconds, threads=args.threads
        )
        latency = measure(found, images, options)
    rows = {row.name: row for row in latency.rows}
    theirs = min((name for name in rows if name.startswith(THEIRS)), key=lambda name: rows[name].p50_ms)
    ahead = ratio(rows[theirs].samples_ms, rows[OURS].samples_ms)
    return {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": args.model,
        "weights": network.model.weights,
        "processor": registry.get("openvino").capability().device,
        "versions": {"openvino": version("openvino"), "onnxruntime": version("onnxruntime"), "nncf": nncf},
        "calibration_images": args.calibration_images,
        "test_images": length(images),
        "nncf_counts_as": theirs,
        "speedup_over_nncf_p50": ahead.value,
        "speedup_over_nncf_ci95": (ahead.low, ahead.high),
        "latency": latency.model_dump(mode="json"),
        "parity": {name: found.model_dump(mode="json") for name, found in parities.items()},
    }


def show(console: Console, result: dict[str, Any]) -> None:
    """Prints the comparison as a table."""
    table = Table(title=f"{result['model']} ({result['weights']} weights), batch 1, {result['processor']}")
    for column in ("engine", "p50 ms", "p95 ms", "cosine min", "SQNR dB", "top-1 agreement"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    for row in result["latency"]["rows"]:
        held = result["parity"][row["name"]]
        figures = (f"{held['cosine_min']:.5f}", f"{held['sqnr_db']:.1f}", f"{held['top1_agreement']:.3f}")
        table.add_row(row["name"], f"{row['p50_ms']:.2f}", f"{row['p95_ms']:.2f}", *figures)
    console.print(table)
    low, high = result["speedup_over_nncf_ci95"]
    console.print(
        f"{OURS} is {result['speedup_over_nncf_p50']:.2f}x as fast as {result['nncf_counts_as']} "
        f"(95 %: {low:.2f} to {high:.2f}; {'; '.join(result['latency']['unsteady']) or 'steady'})."
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnest50")
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--input-size", default=None, help="channels, height, width; by default the network's own")
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--test-images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=0, help="0 is the runtime's choice")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    result = compare(args)
    show(Console(), result)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
