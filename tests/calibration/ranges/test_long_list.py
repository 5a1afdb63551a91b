"""A calibration list of 20,000 images streams: the memory is that of a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PROGRAM = """
import json, resource, sys
import onnx_ir as ir
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.data.source import load_data
from radixrt.calibration.data.preprocess import Preprocess
from tests.export.reader.test_onnx_file import tiny

spec = Preprocess.from_config({"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3})
for count in (500, 20_000):
    images = load_data(sys.argv[1], spec, calibration_limit=count, workers=1).calibration
    batches = ({"image": batch.inputs["input"]} for batch in images.batches(8))
    table = calibrate(ir.from_proto(tiny(batch=1)), batches, data_sha256=images.sha256, threads=1)
    print(json.dumps([table.images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@pytest.mark.slow
def test_twenty_thousand_images_take_the_memory_of_five_hundred(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sources = [tmp_path / f"{index}.png" for index in range(8)]
    for source in sources:
        Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(source)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(20_000):
        (folder / f"{index:05d}.png").symlink_to(sources[index % len(sources)])
    # A process of its own: the peak of this one belongs to the tests before.
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=True, capture_output=True, timeout=300)
    (few, before), (many, after) = (json.loads(line) for line in done.stdout.splitlines())
    assert (few, many) == (500, 20_000)
    # The list of names is 4 MB; the images themselves would be 15 MB, their activations 100 MB.
    assert after - before < 10_000_000
