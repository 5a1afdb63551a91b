"""What calibrating costs: time and peak memory beside plain forward passes, and the peers' own."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.calibration_tools import command_of, measured, prepare_files


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Time and peak memory of each tool, the plain forward pass among them.

    A peer that does not fit gets half as many images, until it fits.
    """
    name = args.model or "resnest50d"
    files, weights = prepare_files(name, args.images, args.data)
    limit = int(args.limit_gb * 1e9)
    counts = sorted({min(64, args.images), args.images})
    rows: list[dict[str, Any]] = []

    def take(tool: str, count: int, limit_bytes: int = 0) -> bool:
        """Measures one tool, and tells whether fewer images are worth trying."""
        command = command_of(tool, files, count, "entropy")
        if command is None:
            return False
        row = {"tool": tool, "images": count, **measured(command, limit_bytes)}
        rows.append(row)
        said = f"{row['seconds']:8.1f} s {row['peak_bytes'] / 1e9:6.2f} GB {row['failed']}"
        print(f"{tool:10} {count:5} images {said}", flush=True)
        return bool(row["failed"])

    for count in counts:
        for tool in ("forward", "radixrt"):
            take(tool, count)
    for tool in ("ort", "modelopt"):
        count = args.images
        while count >= 8 and take(tool, count, limit):
            count //= 2
    found = {(row["tool"], row["images"]): row for row in rows}
    ours = found["radixrt", args.images]
    summary = {
        "seconds_over_forward": ours["seconds"] / found["forward", args.images]["seconds"],
        "peak_bytes_over_fewest_images": ours["peak_bytes"] / found["radixrt", counts[0]]["peak_bytes"],
    }
    print(
        f"{args.images} images: {summary['seconds_over_forward']:.2f}x the forward passes' time, "
        f"{ours['peak_bytes'] / 1e9:.2f} GB, {summary['peak_bytes_over_fewest_images']:.2f}x that of {counts[0]} images"
    )
    return {"model": name, "weights": weights, "method": "entropy", "limit_gb": args.limit_gb, "rows": rows, **summary}
