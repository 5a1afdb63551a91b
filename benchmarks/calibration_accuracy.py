"""What INT8 loses: the sample networks beside the peers' INT8 of them, on the same test images."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration_tools import ROOT, Files, command_of, prepare_files
from benchmarks.networks import Run, Setting, built, prepared, runner, test_images
from radixrt.export.feed import length, part

SAMPLES = ("senet-nano-elpv", "sknet-nano-elpv", "resnest-nano-elpv")

STRICT_POINTS = 2.0
"""Points that ``--max-drop --strict`` allows: some 260 images calibrate, and no count of them shows less than 1.5."""


def accuracy(args: argparse.Namespace) -> dict[str, Any]:
    """Drop, SQNR and latency of RadixRT's INT8 and the peers' at their defaults, on the test images."""
    names = args.model.split(",") if args.model else SAMPLES
    return {name: accuracy_of(name, args) for name in names}


def accuracy_of(name: str, args: argparse.Namespace) -> dict[str, Any]:

    from radixrt.calibration.int8 import sqnr_db
    from radixrt.calibration.spec import MaxDrop, Recovery
    from radixrt.engines.registry import get
    from radixrt.export.spec import Precision
    from radixrt.reuse import Reuse
    from radixrt.validate.measure.latency import LatencyOptions, measure
    from radixrt.validate.measure.statistics import PairedTable, difference_interval

    setting = Setting(args.data, None, args.calibration_images, args.test_images, args.threads)
    files, _ = prepare_files(name, args.calibration_images, args.data)
    recoveries = {
        "radixrt": Recovery(),
        "radixrt --no-recovery": Recovery(enabled=False),
        f"radixrt --max-drop {STRICT_POINTS:g} --strict": Recovery(max_drop=MaxDrop(STRICT_POINTS, True, True)),
        "radixrt --max-drop 0": Recovery(max_drop=MaxDrop(0.0, False, True)),
    }
    runs: dict[str, Run] = {}
    said: dict[str, list[str]] = {}
    with ExitStack() as stack:
        reuse = stack.enter_context(Reuse())
        network = prepared(name, setting, reuse)
        for i, (title, recovery) in enumerate({"float32": None, **recoveries}.items()):
            precision = Precision.FP32 if recovery is None else Precision.INT8
            folder = files.folder / f"engine-{i}"
            engine = built(network, precision, "onnxruntime", folder, setting, reuse, recovery)
            session = stack.enter_context(get("onnxruntime").open(engine.files[0], threads=args.threads))
            runs[title] = runner(session)
            if recovery is not None:
                said[title] = json.loads((folder / "recovery.json").read_text())
        for title, path in peers(files, args.calibration_images).items():
            runs[title] = precise_runner(path, args.threads)
        images = test_images(network, args.test_images)
        labels = np.concatenate(
            [np.asarray(b.targets) for b in network.test.batches(8, args.test_images) if b.targets is not None]
        )[: length(images)]
        options = LatencyOptions(baseline="float32", rounds=args.rounds, seconds=60, threads=args.threads)
        latency = measure(runs, images, options)
        answers = {
            title: np.concatenate([run(part(images, i, i + 1)) for i in range(length(images))])
            for title, run in runs.items()
        }
    exact = answers["float32"]
    right = exact.argmax(axis=1) == labels
    p50 = {row.name: row.p50_ms for row in latency.rows}
    print(f"\n{name}: {length(images)} test images, calibrated on {args.calibration_images}", flush=True)
    rows = []
    decibels: dict[str, float] = {}
    for title, got in answers.items():
        pairs = PairedTable.count(right, got.argmax(axis=1) == labels)
        low, high = difference_interval(pairs)
        decibels[title] = min(sqnr_db(exact, got), 999.0)
        sentences = said.get(title, [])
        row = {
            "name": title,
            "sqnr_db": decibels[title],
            "top1": (pairs.both + pairs.gained) / pairs.images,
            "drop_points": -pairs.difference * 100,
            "drop_ci95_points": [-high * 100, -low * 100],
            "p50_ms": p50[title],
            "recovery": sentences,
        }
        rows.append(row)
        print(
            f"{title:32} {row['sqnr_db']:6.1f} dB  top-1 {row['top1']:.4f}  drop {row['drop_points']:+.2f} points "
            f"[{-high * 100:+.2f}, {-low * 100:+.2f}]  {row['p50_ms']:6.2f} ms",
            flush=True,
        )
        for sentence in sentences:
            print(f"    {sentence}", flush=True)
    rivals = {title: db for title, db in decibels.items() if title in ("onnxruntime defaults", "modelopt defaults")}
    ahead = decibels["radixrt"] - max(rivals.values())
    print(f"SQNR at default settings: {ahead:+.1f} dB against the better of {', '.join(rivals)}", flush=True)
    return {"test_images": len(images), "unsteady": latency.unsteady, "sqnr_db_ahead": ahead, "rows": rows}


def peers(files: Files, count: int) -> dict[str, Path]:
    """The peers' INT8 graphs of the network as it was captured; those that fail are said and left out."""
    found = {}
    # ModelOpt's default is entropy; the plain maximum stands beside it, because entropy clips these networks badly.
    for tool, method in (("ort", "defaults"), ("modelopt", "defaults"), ("modelopt", "max")):
        command = command_of(tool, files, count, method)
        if command is None:
            continue
        title = f"{'onnxruntime' if tool == 'ort' else tool} {method}"
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            print(f"{title} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        else:
            found[title] = files.folder / f"{tool}-{method}.onnx"
    return found


def precise_runner(path: Path, threads: int) -> Run:
    """A peer's graph, open so that 16-bit sums cannot overflow: it would be judged by overflows otherwise."""
    import onnxruntime as ort

    from radixrt.engines.cpu.onnxruntime import session_options

    options = session_options(threads)
    options.add_session_config_entry("session.x64quantprecision", "1")
    opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = opened.get_inputs()[0].name
    return lambda images: np.asarray(opened.run(None, {name: images})[0])
