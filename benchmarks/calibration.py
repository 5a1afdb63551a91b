"""Calibration and INT8 beside their peers, on the same images, in one run. ``make bench-calibration``.

Four parts, run one by one with ``--part``; each writes its own share of benchmarks/results/calibration.json:

- ``cost``: time and peak memory of calibrating resnest50d by entropy, beside plain forward passes over the same images;
- ``memory``: peak memory of calibrating a U-Net at 1024 x 1024, and of building it, by the number of images;
- ``accuracy``: the three sample networks in INT8: drop of top-1 with its paired 95 % interval, SQNR of the logits and
  latency, beside the peers at their defaults; and what ``--max-drop`` does;
- ``latency``: INT8 and FP32 of resnest50d on ONNX Runtime, batch 1, timed in turn.

The peers are ONNX Runtime's ``quantize_static`` and NVIDIA ModelOpt's ONNX PTQ; ModelOpt gets a virtual environment of
its own under ``build/peers/``, because it pins other versions of what RadixRT uses. The address space of peers is
limited in ``cost``, and what does not fit is reported so.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration_accuracy import accuracy
from benchmarks.calibration_cost import cost
from benchmarks.calibration_memory import memory
from benchmarks.calibration_tools import MODELOPT, WORK
from benchmarks.networks import Run, Setting, built, prepared, runner, test_images
from radixrt.export.feed import length, part

RESULTS = Path(__file__).parent / "results" / "calibration.json"


def latency(args: argparse.Namespace) -> dict[str, Any]:
    """INT8 against FP32 on ONNX Runtime, batch 1, timed in turn; the original graph in FP32 beside them."""
    from radixrt.calibration.int8 import sqnr_db
    from radixrt.engines.registry import get
    from radixrt.export.spec import Precision
    from radixrt.reuse import Reuse
    from radixrt.validate.measure.latency import LatencyOptions, measure

    name = args.model or "resnest50d"
    setting = Setting(args.data, None, min(args.calibration_images, 128), 32, args.threads)
    with ExitStack() as stack:
        reuse = stack.enter_context(Reuse())
        network = prepared(name, setting, reuse)
        runs: dict[str, Run] = {}
        for precision in (Precision.INT8, Precision.FP32):
            folder = WORK / name / f"engine-{precision.value}"
            engine = built(network, precision, "onnxruntime", folder, setting, reuse)
            session = stack.enter_context(get("onnxruntime").open(engine.files[0], threads=args.threads))
            runs[f"radixrt {precision.value}"] = runner(session)
        images = test_images(network, 32)
        options = LatencyOptions(baseline="radixrt fp32", rounds=args.rounds, seconds=120, threads=args.threads)
        found = measure(runs, images, options)
        answers = {
            title: np.concatenate([run(part(images, i, i + 1)) for i in range(length(images))])
            for title, run in runs.items()
        }
    p50 = {row.name: row.p50_ms for row in found.rows}
    result = {
        "model": name,
        "weights": network.model.weights,
        "fp32_p50_ms": p50["radixrt fp32"],
        "int8_p50_ms": p50["radixrt int8"],
        "speedup_p50": found.speedup_p50,
        "speedup_ci95": found.speedup_ci95,
        "unsteady": found.unsteady,
        "sqnr_db": sqnr_db(answers["radixrt fp32"], answers["radixrt int8"]),
    }
    low, high = found.speedup_ci95
    print(
        f"{name}, onnxruntime, batch 1: FP32 {result['fp32_p50_ms']:.2f} ms, INT8 {result['int8_p50_ms']:.2f} ms, "
        f"{result['speedup_p50']:.2f}x (95 %: {low:.2f} to {high:.2f}), SQNR of the logits {result['sqnr_db']:.1f} dB"
    )
    return result


PARTS = {"cost": cost, "memory": memory, "accuracy": accuracy, "latency": latency}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--model", default=None, help="instead of the part's own; names with commas for accuracy")
    parser.add_argument("--images", type=int, default=512, help="cost: how many images calibrate")
    parser.add_argument("--side", type=int, default=1024, help="memory: of the images")
    parser.add_argument("--calibration-images", type=int, default=256, help="accuracy, latency: at most so many")
    parser.add_argument("--test-images", type=int, default=2000, help="accuracy: at most so many")
    parser.add_argument("--data", default="elpv")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=0, help="0 is the runtime's choice")
    parser.add_argument("--limit-gb", type=float, default=16.0, help="cost: address space of each peer")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    for section in args.part:
        print(f"--- {section}", flush=True)
        started = time.monotonic()
        result = PARTS[section](args)
        # Read again after each part: parts may run as commands of their own.
        written = json.loads(args.output.read_text()) if args.output.exists() else {}
        if section == "accuracy":  # so may its networks
            result = {**written.get(section, {}).get("result", {}), **result}
        written[section] = {
            "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in ("onnxruntime", "onnx", "numpy")} | {"modelopt": MODELOPT},
            "seconds": time.monotonic() - started,
            "result": result,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.output} ({part}, {time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
