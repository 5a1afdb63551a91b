"""Image sides that stay free, end to end: one engine, every size of its range, and nothing outside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import radixrt as rt
from radixrt.errors import InputError
from tests.networks.dense import unet
from tests.photographs import write_photographs

RANGES = {"height": "32..64:16", "width": "32..96:16"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sides")
    flat = folder / "flat"
    flat.mkdir()
    for picture in sorted((write_photographs(folder)).rglob("*.png"))[:8]:
        shutil.copy(picture, flat / f"{picture.parent.name}-{picture.name}")
    rt.compile(
        unet(), data=flat, precision="int8", target="onnxruntime", output=folder / "bundle", latency_rounds=3,
        grouped_conv="keep", recovery=False, **RANGES,
    )  # fmt: skip
    return folder / "bundle"


@pytest.mark.slow
def test_one_engine_is_proved_at_several_sizes_and_takes_them_all(bundle: Path, tmp_path: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    at = {(one["height"], one["width"]): one for one in report["parity"]["sizes"]}
    assert set(at) == {(32, 32), (32, 80), (64, 96)}
    assert all(one["samples"] == 4 and one["sqnr_db"] > 15 for one in at.values())
    assert len(report["rewrite"]["attention_blocks"]) == 5
    assert report["latency"]["method"]["image"] == [48, 64]
    assert "at 32 x 80, 4 images" in (bundle / "report.md").read_text()
    manifest = json.loads((bundle / "manifest.json").read_text())
    height, width = ({"min": 32, "max": most, "step": 16} for most in (64, 96))
    assert manifest["sides"] == {"height": height, "width": width}
    assert manifest["inputs"][0]["shape"] == [1, 3, -1, -1] and manifest["preprocessing"]["input_size"] == [3, 48, 64]
    with rt.load(bundle) as engine:
        assert engine(np.zeros((2, 3, 64, 32), np.float32)).shape == (2, 4, 64, 32)
        with pytest.raises(InputError, match=r"a side of 40 is not one of 32..64:16"):
            engine(np.zeros((1, 3, 40, 32), np.float32))
        picture = np.zeros((44, 90, 3), np.uint8)
        answers = [next(engine.predict(picture, size=size)) for size in (None, "fit", (64, 32))]
        assert [one.outputs["output"].shape[2:] for one in answers] == [(48, 64), (48, 96), (64, 32)]
        with pytest.raises(InputError, match="not 33 x 32"):
            next(engine.predict(picture, size=(33, 32)))
    for size, code in (((32, 96), 0), ((32, 112), 2)):
        np.save(tmp_path / "x.npy", np.zeros((1, 3, *size), np.float32))
        command = [sys.executable, str(bundle / "run.py"), "--input", str(tmp_path / "x.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
    assert "a side of 112 for input: the engine takes 32..96:16" in done.stderr


def test_a_range_and_a_size_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--input-size fixes the sides"):
        rt.compile(unet(), data=write_photographs(tmp_path), input_size=(3, 32, 32), height="32..64:32")
