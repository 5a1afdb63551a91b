"""What a whole INT8 build of a U-Net takes in memory, by the number of images that calibrate it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.calibration_tools import measured

_COUNTS = (4, 16, 64, 128)
_FEW = ("--test-images", "4", "--latency-rounds", "1", "--fresh")


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of ``radixrt engine``, calibration and recovery among its steps, of images of 1024 x 1024."""
    name = args.model or "resnest-nano-cracks"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in _COUNTS:
            command = [str(Path(sys.executable).with_name("radixrt")), "engine", name, "-p", "int8"]
            command += ["--target", "onnxruntime", "--input-size", f"3,{args.side},{args.side}"]
            command += ["--calibration-images", str(count), *_FEW, "-o", f"{folder}/{count}"]
            row = {"images": count, **measured(command, 0)}
            rows.append(row)
            print(f"{count:5} images {row['peak_bytes'] / 1e9:6.2f} GB {row['failed']}", flush=True)
    peaks = [row["peak_bytes"] for row in rows]
    print(f"{name} at {args.side} x {args.side}: the largest peak is {max(peaks) / min(peaks):.2f}x the smallest")
    return {"model": name, "side": args.side, "rows": rows, "largest_over_smallest": max(peaks) / min(peaks)}
