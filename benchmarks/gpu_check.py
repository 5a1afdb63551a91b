"""What runs on this GPU, against PyTorch eager and compiled: one command for whoever has one. ``make gpu-check``.

For three networks in FP16 and INT8, each target that builds and runs on this machine is built, held against PyTorch on
the same images and timed in turn with PyTorch in FP16, eager and compiled. What comes out is
``benchmarks/results/<device>.json`` with the driver, the versions, the clocks and the temperature before and after.
What fails is written down with its error and does not stop the rest; the command then ends with exit code 1.

Once it is installed it needs no network: the images come with the samples, and where no trained weights can be had the
networks get random ones, which the file says. There is no GPU where this was written: it was run there only as far as
saying so (exit code 4), and the rest on a CPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from radixrt.engines import registry
from radixrt.engines.tensorrt.available import find_gpu
from radixrt.engines.tensorrt.cuda_driver import load_driver
from radixrt.errors import UnavailableError
from radixrt.export.feed import IMAGE_INPUT, Feed, length, part
from radixrt.validate.measure.machine_state import read_machine

if TYPE_CHECKING:
    from benchmarks.networks import Setting
    from radixrt.prepare import Prepared
    from radixrt.reuse import Reuse

MODELS = ("resnest50", "sknet50", "seresnet50")
BASELINE = "pytorch eager fp16"
RESULTS = Path(__file__).parent / "results"
Run = Callable[[Feed], NDArray[np.float32]]


def gpu_facts() -> dict[str, Any]:
    """Returns what the driver says about the GPU now; a Jetson's says less."""
    driver = Path("/sys/module/nvidia/version")
    return {
        "driver": driver.read_text().strip() if driver.exists() else "",
        "cuda": load_driver().get_driver_version(),
        **read_machine().numbers,
    }


def said(error: Exception) -> str:
    """Prints an error with its traceback, and returns it as the file names it."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {error}"


def torch_runners(module: Any) -> dict[str, Run]:
    """Returns PyTorch on the GPU in FP16 with channels last, eager and compiled with CUDA graphs."""
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError("PyTorch on the GPU", "it finds no CUDA device", "Install a build for this driver.")
    model = module.half().cuda().eval().to(memory_format=torch.channels_last)
    compiled = torch.compile(model, mode="reduce-overhead")

    def runner(call: Any) -> Run:
        def run(feed: Feed) -> NDArray[np.float32]:
            with torch.inference_mode():
                batch = torch.from_numpy(feed[IMAGE_INPUT]).cuda().half().to(memory_format=torch.channels_last)
                logits: NDArray[np.float32] = call(batch).float().cpu().numpy()
                return logits

        return run

    return {BASELINE: runner(model), "pytorch compiled fp16": runner(compiled)}


def check_network(name: str, args: argparse.Namespace, setting: Setting, reuse: Reuse) -> dict[str, Any]:
    """Builds, holds and times every target for one network."""
    import copy

    from benchmarks.networks import prepared, test_images
    from radixrt.engines.runners import logits_of
    from radixrt.validate.measure.latency import LatencyOptions, measure
    from radixrt.validate.measure.parity import parity

    network = prepared(name, setting, reuse)
    images = test_images(network, args.test_images)
    reference = logits_of(network.reference.run)(images)
    notes: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = open_engines(network, folder, setting, reuse, stack, notes, failed)
        try:
            found |= torch_runners(copy.deepcopy(network.model.module))
        except Exception as error:  # the engines' own figures stand without it
            failed[BASELINE] = said(error)
        held = {}
        for key, run in tuple(found.items()):
            try:
                answer = np.concatenate([run(part(images, i, i + 1)) for i in range(length(images))])
                held[key] = parity(reference, answer).model_dump(mode="json")
            except Exception as error:  # noqa: PERF203  -- one engine that fails must not cost the others their figures
                failed[key] = said(error)
                del found[key]
        latency = None
        if found:
            baseline = BASELINE if BASELINE in found else next(iter(found))
            options = LatencyOptions(baseline=baseline, rounds=args.rounds, seconds=args.seconds)
            latency = measure(found, images, options).model_dump(mode="json")
    return {"weights": network.model.weights, "parity": held, "latency": latency, "notes": notes, "failed": failed}


def open_engines(
    network: Prepared,
    folder: Path,
    setting: Setting,
    reuse: Reuse,
    stack: ExitStack,
    notes: dict[str, list[str]],
    failed: dict[str, str],
) -> dict[str, Run]:
    """Builds and opens every target that runs here, in both precisions."""
    from benchmarks.networks import built, runner
    from radixrt.export.spec import Precision

    found: dict[str, Run] = {}
    for target in registry.runnable_targets():
        for precision in (Precision.FP16, Precision.INT8):
            key = f"{target.name} {precision.value}"
            try:
                engine = built(network, precision, target.name, folder / key.replace(" ", "-"), setting, reuse)
                session = stack.enter_context(target.open(engine.files[0], threads=setting.threads))
            except Exception as error:  # as above: written down, and on with the next
                failed[key] = said(error)
                continue
            notes[key] = list(engine.notes)
            found[key] = runner(session)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"by default {', '.join(MODELS)}")
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--calibration-images", type=int, default=128)
    parser.add_argument("--test-images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    gpu = find_gpu()
    if not gpu.usable:
        error = UnavailableError("gpu-check", gpu.reason, gpu.hint[0].upper() + gpu.hint[1:])
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    from benchmarks.networks import Setting
    from radixrt.reuse import Reuse, library_versions

    setting = Setting(args.data, None, args.calibration_images, args.test_images, 0)
    result: dict[str, Any] = {
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gpu": {"name": gpu.name, "compute_capability": gpu.capability, **gpu_facts()},
        "versions": library_versions(),
        "targets": {t.name: vars(t.capability()) for t in registry.all_targets()},
        "networks": {},
    }
    output = RESULTS / f"{re.sub('[^a-z0-9]+', '-', gpu.name.lower()).strip('-')}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    with Reuse() as reuse:
        for name in args.models or MODELS:
            try:
                result["networks"][name] = check_network(name, args, setting, reuse)
            except Exception as error:  # as above
                result["networks"][name] = {"failed": {name: said(error)}}
            result["gpu_after"] = gpu_facts()
            # Written after each network, so that a run that is stopped leaves what it has.
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            show(name, result["networks"][name])
    print(f"Written to {output}")
    sys.exit(any(network["failed"] for network in result["networks"].values()))


def show(name: str, found: dict[str, Any]) -> None:
    """Prints what became of one network."""
    for row in (found.get("latency") or {}).get("rows", ()):
        cosine = found["parity"][row["name"]]["cosine_min"]
        print(f"{name}: {row['name']:28} {row['p50_ms']:8.3f} ms, cosine {cosine:.5f}")
    for key, error in found["failed"].items():
        print(f"{name}: {key:28} failed: {error}")


if __name__ == "__main__":
    main()
