"""What a sweep costs as it grows, and how much of that is Ray's: ``python -m benchmarks.fleet --rows 4,16,64``.

A row is a network of one linear layer on images of 32x32 in FP32 for ONNX Runtime, with weights of its own and two
timed rounds: as little as a row can be, so that what is not the row's shows. The share that is not the rows' is what
the jobs' seconds, divided by the jobs at once, leave of the wall clock: starting Ray and its processes, sending rows
out, and writing what came.

``--single`` also runs each row of a recipe's sweep by itself, ``radixrt engine`` one after the other, for the sum that
the sweep is held against.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from radixrt.fleet.options import SweepOptions
from radixrt.fleet.rows import rows_of
from radixrt.fleet.schema import Sweep
from radixrt.machine import processor
from radixrt.recipe import from_file, to_toml

COMMAND = [sys.executable, "-c", "import sys; sys.argv[0] = 'radixrt'; from radixrt.cli import main; main()"]
FAR = 10_000


def write_recipe(folder: Path, rows: int) -> Path:
    """Writes the networks, the images and the recipe of a sweep of so many rows."""
    rng = np.random.default_rng(0)
    for label in ("dark", "light"):
        (folder / "data" / label).mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(0, 128, (32, 32, 3)) + (128 if label == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "data" / label / f"{index}.png")
    for index in range(rows):
        weight = numpy_helper.from_array(rng.normal(size=(3, 2)).astype(np.float32), "weight")
        nodes = [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weight"], ["logits"]),
        ]
        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])
        found = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
        graph = helper.make_graph(nodes, "small", [given], [found], [weight])
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / f"net{index}.onnx")
    names = ", ".join(f'"net{index}.onnx"' for index in range(rows))
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f'model = [{names}]\ndata = "data"\nprecision = "fp32"\ntarget = "onnxruntime"\nlatency_rounds = 2\n'
        "[preprocess]\ninput_size = [3, 32, 32]\nmean = [0.5]\nstd = [0.25]\ncrop_pct = 1.0\n"
    )
    return recipe


def timed(words: list[str], cache: Path) -> float:
    """Runs a command of ``radixrt`` with a cache of its own; gives its seconds."""
    started = time.monotonic()
    subprocess.run(
        [*COMMAND, *words],
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.monotonic() - started


def growth(sizes: list[int], jobs: int) -> None:
    """Prints what sweeps of these sizes cost, and what the largest two say of a far larger one."""
    print(f"{processor()}, {jobs} jobs at once")
    print("rows   seconds   a row   of the rows   Ray and the command")
    walls = []
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="radixrt-fleet-") as scratch:
            folder = Path(scratch)
            recipe = write_recipe(folder, rows)
            words = ["sweep", str(recipe), "--output", str(folder / "sweep"), "--jobs", str(jobs)]
            walls.append(timed(words, folder / "cache"))
            own = sum(row.cost.seconds for row in Sweep.read(folder / "sweep").rows if row.cost) / min(jobs, rows)
        wall = walls[-1]
        print(f"{rows:4d}  {wall:8.1f}  {wall / rows:6.2f}  {own:12.1f}  {1 - own / wall:20.0%}", flush=True)
    if len(sizes) > 1:
        each = (walls[-1] - walls[-2]) / (sizes[-1] - sizes[-2])
        start = walls[-1] - each * sizes[-1]
        hours = (start + each * FAR) / 3600
        print(f"{FAR} rows, by calculation: {start:.1f} s and {each:.2f} s a row make {hours:.1f} hours")


def single(recipe: Path, cache: Path, skip: int, most: int) -> None:
    """Prints what each row of a recipe takes by itself, one command after the other, in one cache."""
    total = 0.0
    for row in rows_of(from_file(SweepOptions, recipe))[skip:][:most]:
        with tempfile.TemporaryDirectory(prefix="radixrt-fleet-") as scratch:
            path = Path(scratch, "recipe.toml")
            path.write_text(to_toml(row.options))
            seconds = timed(["engine", str(path), "--output", f"{scratch}/bundle"], cache)
        total += seconds
        print(f"{row.name:48s} {seconds:7.1f} s", flush=True)
    print(f"together {total:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="4,16,64", help="the sweeps' sizes")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--single", type=Path, help="a sweep's recipe whose rows are run by themselves instead")
    parser.add_argument("--cache", type=Path, default=Path("build/fleet-cache"), help="the cache of those")
    parser.add_argument("--skip", type=int, default=0, help="rows to leave out at the start of those")
    parser.add_argument("--most", type=int, default=10_000, help="how many of those to run")
    given = parser.parse_args()
    if given.single is not None:
        single(given.single, given.cache.absolute(), given.skip, given.most)
    else:
        growth([int(one) for one in given.rows.split(",")], given.jobs)


if __name__ == "__main__":
    main()
