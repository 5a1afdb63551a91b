"""What ``make bench-tasks`` compares of one network: built into a folder once, and opened from there.

The folder holds each engine's files, the original and the rewritten graph, and which is which (``engines.json``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console

from benchmarks.rivals import (
    attempted,
    opened_by_openvino,
    openvino_rests,
    quantised_by_nncf,
    quantised_by_onnxruntime,
)
from radixrt.build.deploy import DeployOptions, deploy_graph
from radixrt.calibration.spec import CalibrationOptions, Recovery
from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.session import Session
from radixrt.errors import InputError
from radixrt.export.feed import Feed, joined
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.spec import Precision
from radixrt.prepare.network import Prepared
from radixrt.progress import Stages
from radixrt.reuse import Reuse

TARGETS = ("onnxruntime", "openvino")
ORIGINAL, NNCF = "original", "nncf openvino int8"
ENGINES, ORIGINAL_FILE, REWRITTEN = "engines.json", "original.onnx", "rewritten.onnx"
BATCH = 8
Answers = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], Answers]


def build(network: Prepared, args: argparse.Namespace, folder: Path, reuse: Reuse) -> dict[str, Any]:
    """Builds all that is compared into a folder, and says what was found in the graph and what could not be built."""
    stages = Stages(Console(stderr=True))
    said: dict[str, Any] = {"failed": {}}
    files = {ORIGINAL: folder / ORIGINAL_FILE}
    write_onnx(network.graph, files[ORIGINAL])
    aims = network.task.task.aims(network.network)
    for target in TARGETS:
        for precision in (Precision.FP32, Precision.INT8):
            name = f"radixrt {target} {precision.value}"
            recovery = Recovery(outputs=aims)
            options = DeployOptions(
                precision, target, "auto", 1, CalibrationOptions(), recovery, threads=args.build_threads
            )
            try:
                graph = deploy_graph(network.graph, network.data.calibration, options, stages, reuse)
                home = folder / name.replace(" ", "-")
                home.mkdir()
                built = registry.get(target).build_graph(graph.model, home, BuildOptions(precision))
            except InputError as refusal:
                said["failed"][name] = str(refusal)
                continue
            files[name] = built.files[0]
            if precision is Precision.FP32 and target == TARGETS[0]:
                said["blocks"] = len(graph.rewrite.attention_blocks)
                said["refused"] = [f"{refusal.node}: {refusal.reason}" for refusal in graph.rewrite.refused]
                write_onnx(graph.float32, folder / REWRITTEN)
            if graph.quantization is not None:
                said[target] = {
                    "int8_layers": graph.quantization.quantized,
                    "float_layers": len(graph.quantization.kept_float),
                    "round_trips": graph.quantization.float_round_trips,
                    "recovery": list(graph.quantization.recovery),
                }
    calibration = joined(batch.inputs for batch in network.data.calibration.batches(BATCH, args.calibration_images))
    rivals: dict[str, Callable[[], Path]] = {
        "quantize_static onnxruntime int8": lambda: quantised_by_onnxruntime(files[ORIGINAL], calibration, folder)
    }
    if args.nncf:
        (images,) = calibration.values()
        rivals[NNCF] = lambda: quantised_by_nncf(files[ORIGINAL], images, folder)
    for name, rival in rivals.items():
        made = attempted(rival)
        if isinstance(made, Path):
            files[name] = made
        else:
            said["failed"][name] = made
    places = {name: str(path.relative_to(folder)) for name, path in files.items()}
    (folder / ENGINES).write_text(json.dumps(places, indent=1))
    return said


def plan_of(network: Prepared, precision: Precision, reuse: Reuse) -> dict[str, Any]:
    """Compiles a plan of TensorRT for RTX with its default forms, and tells its size.

    Raises:
        InputError: the parser or the builder refuses the graph, and says what of it.
    """
    target = registry.get("tensorrt-rtx")
    options = DeployOptions(precision, target.name, "keep", 1, CalibrationOptions(), Recovery(enabled=False))
    graph = deploy_graph(network.graph, network.data.calibration, options, Stages(Console(stderr=True)), reuse)
    with tempfile.TemporaryDirectory() as folder:
        built = target.build_graph(graph.model, Path(folder), BuildOptions(precision, compute_capabilities=("8.6",)))
        found: dict[str, Any] = {"megabytes": round(built.files[0].stat().st_size / 1e6, 1), **built.facts}
    if graph.quantization is not None:
        found["int8_layers"] = graph.quantization.quantized
    return found


def opened(folder: Path, threads: int, stack: ExitStack) -> dict[str, Run]:
    """Every engine that :func:`build` left, as a function."""
    runs: dict[str, Run] = {}
    for name, path in json.loads((folder / ENGINES).read_text()).items():
        file = folder / path
        if name == NNCF:
            runs |= {f"{name} with {rest}": opened_by_openvino(file, threads, rest) for rest in openvino_rests()}
            continue
        target = registry.get("openvino" if file.suffix == ".xml" else "onnxruntime")
        runs[name] = _run_of(stack.enter_context(target.open(file, threads=threads)))
    return runs


def _run_of(session: Session) -> Run:
    return lambda feed: session.run(dict(feed))
