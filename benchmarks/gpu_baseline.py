"""PyTorch and ONNX Runtime beside the engines of ``gpu_check.py``, which starts this once for each network.

    python3 gpu_baseline.py NETWORK --answers FOLDER --rows "pytorch eager b1" "onnxruntime rewritten-fp16 b64"

NETWORK is a folder that the check unpacked. After each row its logits lie in FOLDER, and one line of JSON is printed:
``{"row": ..., "value": ...}``, which names their file.
It stands alone: Python 3.8, numpy, PyTorch, and ONNX Runtime for its rows. PyTorch runs channels last in half
precision: float16 on a GPU, bfloat16 on a processor (``--device cpu``, which tries all of this where there is no GPU;
a CUDA graph alone cannot be recorded there). ``--dtype`` chooses another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np

DTYPES = ("float16", "bfloat16", "float32")
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
WARM_S = 0.5
Found = Tuple[Dict[str, Any], Any]  # what is told of a row, and its logits


class SkippedError(Exception):
    """What a row needs is not on this machine."""


class Network:
    """One network of the kit: its images, and its module once it is loaded."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        self.folder, self.device, self.dtype = folder, device, dtype
        with np.load(str(folder / "images.npz")) as arrays:
            self.images = arrays[arrays.files[0]]
        self.module = None  # type: Any

    def batch(self, size: int) -> np.ndarray:
        """The images, again and again up to this size."""
        return np.resize(self.images, (size, *self.images.shape[1:]))


def pytorch(network: Network, kind: str, size: int, rounds: int) -> Found:
    """One way of running a network with PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise SkippedError(f"PyTorch is not installed ({error})") from error
    device, dtype = torch.device(network.device), getattr(torch, network.dtype)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SkippedError("PyTorch finds no GPU")
    if kind == "graph" and device.type != "cuda":
        raise SkippedError("a CUDA graph needs a GPU")
    began = time.perf_counter()
    if network.module is None:
        torch.backends.cudnn.benchmark = True
        module = torch.export.load(str(network.folder / "network.pt2")).module()
        network.module = module.to(device, dtype).to(memory_format=torch.channels_last)
    batch = torch.from_numpy(network.batch(size)).to(device, dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        run = network.module
        if kind == "graph":
            run = recorded(network.module, batch)
        elif kind == "compiled":
            torch._dynamo.reset()  # one batch size must not make the other a variable
            run = torch.compile(network.module, mode="reduce-overhead", dynamic=False)
        answer = run(batch).float().cpu().numpy()
        ready = time.perf_counter() - began
        clock = on_the_device if device.type == "cuda" else on_the_host
        times = clock(lambda: run(batch), rounds)
    return {**times, "dtype": network.dtype, "ready_s": round(ready, 1), "version": torch.__version__}, answer


def recorded(module: Any, batch: Any) -> Callable[[Any], Any]:
    """A network recorded as one CUDA graph: no launch costs, no compiler."""
    import torch

    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(batch)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = module(batch)

    def run(_: Any) -> Any:
        graph.replay()
        return answer

    return run


def warm(run: Callable[[], Any]) -> None:
    """Runs until caches are filled and clocks are up."""
    until = time.perf_counter() + WARM_S
    run()
    while time.perf_counter() < until:
        run()


def on_the_device(run: Callable[[], Any], rounds: int) -> dict[str, float]:
    """The median between two CUDA events, in milliseconds."""
    import torch

    warm(run)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    times = []
    for _ in range(rounds):
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(float(start.elapsed_time(end)))
    return {"device_p50_ms": float(np.median(times))}


def on_the_host(run: Callable[[], Any], rounds: int) -> dict[str, float]:
    """The median by the host's clock, in milliseconds."""
    warm(run)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) * 1e3)
    return {"p50_ms": float(np.median(times))}


def onnxruntime(network: Network, key: str, size: int, rounds: int) -> Found:
    """ONNX Runtime on the graph of one bundle, its tensors on the device before and after, by the host's clock."""
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401  # its CUDA libraries serve ONNX Runtime, once they are loaded
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise SkippedError(f"ONNX Runtime is not installed ({error})") from error
    provider = PROVIDERS[network.device]
    if provider not in ort.get_available_providers():
        raise SkippedError(f"ONNX Runtime {ort.__version__} has no {provider}: its GPU package is another one")
    began = time.perf_counter()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    graph = str(network.folder / key / "deploy.onnx")
    session = ort.InferenceSession(graph, options, providers=[provider, PROVIDERS["cpu"]])
    if session.get_providers()[0] != provider:
        raise SkippedError(f"ONNX Runtime {ort.__version__} could not load its {provider}: its libraries are missing")
    binding, given = session.io_binding(), session.get_inputs()[0].name
    images = network.batch(size)  # held: a binding on the host only points there
    binding.bind_ortvalue_input(given, ort.OrtValue.ortvalue_from_numpy(images, network.device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, network.device, 0)
    session.run_with_iobinding(binding)
    ready = time.perf_counter() - began
    answer = binding.copy_outputs_to_cpu()[0]
    times = on_the_host(lambda: session.run_with_iobinding(binding), rounds)
    return {**times, "ready_s": round(ready, 1), "version": ort.__version__}, answer


def measure(network: Network, row: str, rounds: int, answers: Path) -> dict[str, Any]:
    """One row, or why there is none."""
    runtime, kind, batch = row.split()
    try:
        measured = {"pytorch": pytorch, "onnxruntime": onnxruntime}[runtime]
        value, answer = measured(network, kind, int(batch[1:]), rounds)
        file = answers / f"{network.folder.name}-{row.replace(' ', '-')}.npy"
        np.save(str(file), answer)
        return dict(value, answers=str(file))
    except SkippedError as error:
        return {"skipped": str(error)}
    except Exception as error:  # one that fails must not cost the others their figures
        return {"failed": f"{type(error).__name__}: {error}"[:900]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--rows", nargs="+", required=True)
    parser.add_argument("--answers", type=Path, required=True, help="the folder that takes each row's logits")
    parser.add_argument("--device", choices=sorted(PROVIDERS), default="cuda")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--until", type=float, default=float("inf"), help="starts nothing new after this time.time()")
    args = parser.parse_args()
    network = Network(args.network, args.device, args.dtype or {"cuda": "float16", "cpu": "bfloat16"}[args.device])
    for row in args.rows:
        value = {"skipped": "no time was left"}  # type: dict[str, Any]
        if time.time() < args.until:
            value = measure(network, row, args.rounds, args.answers)
        print(json.dumps({"row": row, "value": value}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
