"""What ``make bench-tasks`` compares of one network: built into a folder once, and opened from there.

The folder holds each engine's files, the original and the rewritten graph, and which is which (``engines.json``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.peers import peer_python
from radixrt.build.deploy import DeployOptions, deploy_graph
from radixrt.calibration.spec import CalibrationOptions, Recovery
from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.session import Session
from radixrt.errors import InputError
from radixrt.export.feed import Feed, joined, length, part
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.spec import Precision
from radixrt.prepare import Prepared
from radixrt.progress import Stages
from radixrt.reuse import Reuse

TARGETS = ("onnxruntime", "openvino")
ORIGINAL, NNCF = "original", "nncf openvino int8"
ENGINES, REWRITTEN = "engines.json", "rewritten.onnx"
BATCH = 8
Answers = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], Answers]


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


def build(network: Prepared, args: argparse.Namespace, folder: Path, reuse: Reuse) -> dict[str, Any]:
    """Builds all that is compared into a folder, and says what was found in the graph and what could not be built."""
    stages = Stages(Console(stderr=True))
    said: dict[str, Any] = {"failed": {}}
    files = {ORIGINAL: folder / "original.onnx"}
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
        made = _attempted(rival)
        if isinstance(made, Path):
            files[name] = made
        else:
            said["failed"][name] = made
    places = {name: str(path.relative_to(folder)) for name, path in files.items()}
    (folder / ENGINES).write_text(json.dumps(places, indent=1))
    return said


def _attempted(rival: Callable[[], Path]) -> Path | str:
    """What a rival makes, or why it makes nothing: other people's tools raise what they like."""
    try:
        return rival()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def opened(folder: Path, threads: int, stack: ExitStack) -> dict[str, Run]:
    """Every engine that :func:`build` left, as a function."""
    runs: dict[str, Run] = {}
    for name, path in json.loads((folder / ENGINES).read_text()).items():
        file = folder / path
        if name == NNCF:
            runs |= {f"{name} with {rest}": _openvino(file, threads, rest) for rest in _rests()}
            continue
        target = registry.get("openvino" if file.suffix == ".xml" else "onnxruntime")
        runs[name] = _run_of(stack.enter_context(target.open(file, threads=threads)))
    return runs


def _run_of(session: Session) -> Run:
    return lambda feed: session.run(dict(feed))


def _rests() -> tuple[str, ...]:
    import openvino as ov

    offered = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if "BF16" in offered else ("f32",)


def _openvino(model: Path, threads: int, rest: str) -> Run:
    """Opens a model that computes what is not INT8 in ``rest``."""
    import openvino as ov

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": rest}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(feed: Feed) -> dict[str, NDArray[Any]]:
        results = compiled(dict(feed))
        return {name: np.asarray(results[index]) for index, name in enumerate(names)}

    return run
