"""What a user would pick instead, in one interleaved run on this machine. ``make bench-peers``.

For each network: PyTorch eager and compiled, PyTorch 2 export quantisation with Inductor (torchao), ONNX Runtime in
FP32 and from its own ``quantize_static``, NNCF with OpenVINO in each inference precision of this processor, and this
project on both runtimes. All are timed in turn, round by round, and held against the original on the same images:
faster and worse would prove nothing. Of a network of classes the agreement of the first answers is given, of one that
makes maps the overlap (IoU) of what lies above 0.3. The text detector reads rendered pages (``samples/text.py``); where
there is only a file, as of it, ONNX Runtime runs the original.

A network is a part of a few minutes: what is done lies under benchmarks/results/peers/ and is not done again without
``--again``. Weights are random where none are published with the library; SQNR of such networks compares ways to
quantise, and says nothing of accuracy. NNCF runs in an environment of its own (build/peers/nncf), made by the first
run, so that its pins touch nothing here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.networks import Run, Setting, built, prepared, runner, test_images
from benchmarks.rivals import (
    attempted,
    opened_by_openvino,
    openvino_rests,
    quantised_by_nncf,
    quantised_by_onnxruntime,
)
from benchmarks.task_networks import IMAGENET, paddleocr, rendered
from benchmarks.tasks import FOLDER
from radixrt.engines import registry
from radixrt.engines.runners import logits_of
from radixrt.export.feed import IMAGE_INPUT, Feed, joined, length, part
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.spec import Precision
from radixrt.machine import instructions, machine
from radixrt.prepare.network import Prepared
from radixrt.reuse import Reuse
from radixrt.validate.measure.latency import LatencyOptions, measure
from radixrt.validate.measure.parity import parity
from samples.text import overlap

RESULTS = Path(__file__).parent / "results" / "peers"
DETECTOR = "rapidocr"
NETWORKS = ("resnest50", "seresnext50_32x4d", "skresnext50_32x4d", "mobilenetv3_large_100", DETECTOR)
REFERENCE = "original"


@dataclass(frozen=True)
class Ground:
    """What every peer is given.

    Attributes:
        network: the original with its images.
        graph: its unmodified ONNX file.
        samples: those images that calibrate, (N, C, H, W), by the input's name.
        folder: for the peer's own files.
        setting: images and threads.
    """

    network: Prepared
    graph: Path
    samples: Feed
    folder: Path
    setting: Setting

    @property
    def images(self) -> NDArray[np.float32]:
        """The images without the name."""
        (images,) = self.samples.values()
        return images


Peer = Callable[[Ground, ExitStack], dict[str, Run]]


def nncf(ground: Ground, stack: ExitStack) -> dict[str, Run]:
    """NNCF's INT8 on OpenVINO, what is not INT8 in each precision that this processor has."""
    output = quantised_by_nncf(ground.graph, ground.images, ground.folder)
    opened = {rest: opened_by_openvino(output, ground.setting.threads, rest) for rest in openvino_rests()}
    return {f"NNCF + OpenVINO, {rest}": logits_of(run) for rest, run in opened.items()}


def onnx_runtime(ground: Ground, stack: ExitStack) -> dict[str, Run]:
    """ONNX Runtime on the unmodified file, and on what its own ``quantize_static`` makes of it."""
    output = quantised_by_onnxruntime(ground.graph, ground.samples, ground.folder)
    target, found = registry.get("onnxruntime"), {}
    for name, file in (("ONNX Runtime", ground.graph), ("ONNX Runtime, quantize_static", output)):
        found[name] = runner(stack.enter_context(target.open(file, threads=ground.setting.threads)))
    return found


def pytorch(ground: Ground, stack: ExitStack) -> dict[str, Run]:
    """The original eager (in ONNX Runtime where there is only a file), compiled, and quantised by torchao."""
    module, found = ground.network.model.module, {REFERENCE: logits_of(ground.network.reference.run)}
    if module is None:
        return found
    import torch
    import torch._inductor.config

    # As PyTorch's tutorial on quantising for x86 with Inductor says: without, no weight is folded, and none is INT8.
    torch._inductor.config.freezing = True
    if ground.setting.threads:
        torch.set_num_threads(ground.setting.threads)
    example = (torch.from_numpy(ground.images[:1]),)

    def run(compiled: Any) -> Run:
        def call(feed: Any) -> NDArray[np.float32]:
            with torch.no_grad():
                return np.asarray(compiled(torch.from_numpy(np.ascontiguousarray(feed[IMAGE_INPUT]))).numpy())

        call({IMAGE_INPUT: ground.images[:1]})  # compiles
        return call

    found["PyTorch compiled"] = run(torch.compile(module))
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    with torch.no_grad():
        watched = prepare_pt2e(torch.export.export(module, example).module(), quantizer)
        for image in ground.images:
            watched(torch.from_numpy(image[None]))
        found["PyTorch torchao INT8, compiled"] = run(torch.compile(convert_pt2e(watched)))
    return found


def ours(ground: Ground, stack: ExitStack) -> dict[str, Run]:
    """This project's engines on both runtimes, in every precision that they compute in here."""
    reuse, found = stack.enter_context(Reuse()), {}
    for target in map(registry.get, ("onnxruntime", "openvino")):
        for precision in target.precisions():
            folder = ground.folder / f"{target.name}-{precision.value}"
            engine = built(ground.network, Precision(precision), target.name, folder, ground.setting, reuse)
            session = stack.enter_context(target.open(engine.files[0], threads=ground.setting.threads))
            found[f"RadixRT {target.name} {precision.value}"] = runner(session)
    return found


PEERS: dict[str, Peer] = {"pytorch": pytorch, "onnxruntime": onnx_runtime, "nncf": nncf, "radixrt": ours}


def source(name: str) -> str:
    """What a network is compiled from: its name, or the file of the text detector."""
    if name != DETECTOR:
        return name
    return str(paddleocr("_det_")(FOLDER))


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Builds, times and judges every peer of one network; one that fails is a row with its reason."""
    size = args.detector_size if name == DETECTOR else args.input_size
    data, pixels = (rendered("pages")(FOLDER), IMAGENET) if name == DETECTOR else (args.data, None)
    setting = Setting(data, size, args.calibration_images, args.test_images, args.threads, pixels)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        network = prepared(source(name), setting, stack.enter_context(Reuse()))
        write_onnx(network.graph, folder / "unmodified.onnx")
        batches = network.data.calibration.batches(8, args.calibration_images)
        calibration = joined(batch.inputs for batch in batches)
        ground = Ground(network, folder / "unmodified.onnx", calibration, folder, setting)
        found: dict[str, Run] = {}
        failed: dict[str, str] = {}
        for peer in args.peers:
            made = attempted(partial(PEERS[peer], ground, stack))
            if isinstance(made, str):
                failed[peer] = made
            else:
                found |= made
        found.setdefault(REFERENCE, logits_of(network.reference.run))
        images = test_images(network, args.test_images)
        answers = {
            one: np.concatenate([run(part(images, i, i + 1)) for i in range(length(images))])
            for one, run in found.items()
        }
        options = LatencyOptions(baseline=REFERENCE, rounds=args.rounds, seconds=args.seconds, threads=args.threads)
        latency = measure(found, images, options)
    exact = answers[REFERENCE]
    rows = {one: answer.reshape(len(answer), -1) for one, answer in answers.items()}
    return {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "network": name,
        "weights": network.model.weights,
        "processor": f"{machine()}: {' '.join(instructions())}",
        "versions": {library: version(library) for library in ("torch", "torchao", "onnxruntime", "openvino")},
        "calibration_images": length(calibration),
        "test_images": length(images),
        "threads": args.threads,
        "p50_ms": {row.name: row.p50_ms for row in latency.rows},
        "rounds": latency.method.rounds,
        "unsteady": latency.unsteady,
        "sqnr_db": {one: parity(rows[REFERENCE], answer).sqnr_db for one, answer in rows.items()},
        "agreement": {one: agreement(exact, answer) for one, answer in answers.items()},
        "failed": failed,
    }


def agreement(exact: NDArray[np.float32], answer: NDArray[np.float32]) -> float:
    """The share of images with the same first answer; of maps, the overlap of what is found."""
    if exact.ndim == 4 and exact.shape[-1] > 1:
        return overlap(exact, answer, None)
    first, other = (array.reshape(len(array), -1).argmax(axis=1) for array in (exact, answer))
    return float((first == other).mean())


def show(console: Console, result: dict[str, Any]) -> None:
    """Prints one network's comparison."""
    threads = f"{result['threads']} threads" if result["threads"] else "the runtimes' own threads"
    table = Table(title=f"{result['network']} ({result['weights']} weights), batch 1, {threads}; {result['processor']}")
    for column in ("peer", "ms", "SQNR dB", "top-1 or IoU"):
        table.add_column(column, justify="left" if column == "peer" else "right")
    for name, milliseconds in sorted(result["p50_ms"].items(), key=itemgetter(1)):
        held = (f"{result['sqnr_db'][name]:.1f}", f"{result['agreement'][name]:.3f}")
        table.add_row(name, f"{milliseconds:.2f}", *(("", "") if name == REFERENCE else held))
    console.print(table)
    for peer, why in result["failed"].items():
        console.print(f"{peer} was not timed: {why}")
    console.print("; ".join(result["unsteady"]) or "The times are steady.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--again", action="store_true", help="also the networks whose results lie there")
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--input-size", default=None, help="channels, height, width; by default the network's own")
    parser.add_argument("--detector-size", default="3,320,320")
    parser.add_argument("--calibration-images", type=int, default=64)
    parser.add_argument("--test-images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=90.0, help="at most, for one network")
    parser.add_argument("--threads", type=int, default=0, help="0 is the runtime's choice")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    args, console = arguments(), Console()
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.networks:
        file = args.output / f"{Path(name).stem}.json"
        if args.again or not file.exists():
            result = compare(name, args)
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        show(console, json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
