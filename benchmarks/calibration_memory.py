"""What calibrating a U-Net takes in memory, by the number of images.

Measured are ``radixrt calibrate``, and an INT8 build up to its engine, which recovers accuracy too.

    python -m benchmarks.calibration_memory NETWORK SIDE IMAGES

makes such an engine, and leaves nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.calibration_tools import measured

_COUNTS = {"calibrate": (4, 16, 64, 128), "build": (4, 64)}


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """The peak memory of each, the whole process, of images that are ``--side`` pixels wide and high."""
    name, rows = args.model or "resnest-nano-cracks", []
    with tempfile.TemporaryDirectory() as folder:
        graph, size = Path(folder) / "graph.onnx", ("--input-size", f"3,{args.side},{args.side}")
        radixrt = str(Path(sys.executable).with_name("radixrt"))
        subprocess.run([radixrt, "export", name, *size, "-o", str(graph)], check=True, capture_output=True)
        command = [radixrt, "calibrate", str(graph), "--data", "elpv", *size, "-o", f"{folder}/table.json"]
        for what, counts in _COUNTS.items():
            for count in counts:
                row = measured(
                    [*command, "--calibration-images", str(count)]
                    if what == "calibrate"
                    else [sys.executable, "-m", __spec__.name, name, str(args.side), str(count)],
                    0,
                )
                rows.append({"what": what, "images": count, **row})
                print(f"{what:10} {count:4} images {row['peak_bytes'] / 1e9:6.2f} GB {row['failed']}", flush=True)
    return {"model": name, "side": args.side, "rows": rows}


def main() -> None:
    from benchmarks.networks import Setting, built, prepared
    from radixrt.export.spec import Precision
    from radixrt.reuse import Reuse

    name, side, count = sys.argv[1:]
    setting = Setting("elpv", f"3,{side},{side}", int(count), 1, 0)
    with tempfile.TemporaryDirectory() as folder, Reuse(fresh=True) as reuse:
        built(prepared(name, setting, reuse), Precision.INT8, "onnxruntime", Path(folder) / "engine", setting, reuse)


if __name__ == "__main__":
    main()
