"""Other people's quantisers on an ONNX file, as their documentation says to, and OpenVINO opened for what they make.

NNCF runs in an environment of its own (build/peers/nncf), made by the first run, so that its pins touch nothing here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from radixrt.export.feed import Feed, length, part

PEER = Path(__file__).parents[1] / "build" / "peers" / "nncf"
Answers = dict[str, NDArray[Any]]
T = TypeVar("T")


def quantised_by_onnxruntime(graph: Path, samples: Feed, folder: Path) -> Path:
    """Quantises by ``quantize_static``: QDQ, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library is not typed
        def __init__(self) -> None:
            self._left = iter(range(length(samples)))

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            index = next(self._left, None)
            return None if index is None else part(samples, index, index + 1)

    ready, output = folder / "preprocessed.onnx", folder / "quantize_static.onnx"
    quant_pre_process(str(graph), str(ready))
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(ready), str(output), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return output


def quantised_by_nncf(graph: Path, images: NDArray[Any], folder: Path) -> Path:
    """Quantises by NNCF's mixed preset, for OpenVINO."""
    output = folder / "nncf.xml"
    np.save(folder / "images.npy", images)
    script = Path(__file__).with_name("quantise_nncf.py")
    command = [_peer_python(), script, graph, folder / "images.npy", output]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return output


def _peer_python() -> Path:
    """The Python that has NNCF; makes its environment where it is missing."""
    python = PEER / "bin" / "python"
    if not (PEER / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        wanted = ["nncf", f"openvino=={version('openvino')}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (PEER / ".ready").touch()
    return python


def openvino_rests() -> tuple[str, ...]:
    """The precisions in which OpenVINO computes here what is not INT8."""
    import openvino as ov

    offered = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if "BF16" in offered else ("f32",)


def opened_by_openvino(model: Path, threads: int, rest: str) -> Callable[[Feed], Answers]:
    """Opens a model as this project's own engines are opened; what is not INT8 is computed in ``rest``."""
    import openvino as ov

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": rest}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = ov.Core().compile_model(str(model), "CPU", config)
    request, names = compiled.create_infer_request(), [output.get_any_name() for output in compiled.outputs]

    def run(feed: Feed) -> Answers:
        found = request.infer(dict(feed), share_inputs=True, share_outputs=True)
        return {name: np.array(found[index]) for index, name in enumerate(names)}

    return run


def attempted(rival: Callable[[], T]) -> T | str:
    """What a rival makes, or in words why it makes nothing: other people's tools raise what they like."""
    try:
        return rival()
    except Exception as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
