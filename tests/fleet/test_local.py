"""Protects a sweep on this machine alone: Ctrl-C keeps what is finished, and a device over SSH takes part."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from radixrt.fleet.schema import Sweep
from tests.cli_runner import COMMAND, radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs
from tests.remote.loopback import MISSING, Loopback

pytest.importorskip("ray")

RECIPE = """
model = ["first.onnx", "second.onnx"]
data = "photographs"
precision = "fp32"
target = "onnxruntime"
latency_rounds = 10
[preprocess]
input_size = [3, 32, 32]
"""
DEVICE = """
[device.shelf]
ssh = "loop"
ssh_config = "{0.folder}/ssh_config"
python = "{0.python}"
folder = "{0.folder}/work"
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")
def test_ctrl_c_keeps_finished_rows_and_a_device_measures_its_own(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    write_photographs(tmp_path / "photographs")
    for name in ("first", "second"):
        tiny_network(tmp_path / f"{name}.onnx", "batch")
    (tmp_path / "loop").mkdir()
    loop = Loopback(tmp_path / "loop").start()
    try:
        (tmp_path / "recipe.toml").write_text(RECIPE + DEVICE.format(loop))
        words = ["sweep", "recipe.toml", "--output", "sweep", "--jobs", "1"]
        process = subprocess.Popen(
            [*COMMAND, *words],
            cwd=tmp_path,
            env={**os.environ, "RAY_memory_monitor_refresh_ms": "0"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        record = tmp_path / "sweep" / "rows" / "first-fp32-onnxruntime-shelf.json"
        while not record.exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[1]
        assert process.returncode == 130, said
        kept = "Interrupted: 1 of 2 rows are finished and stay; the same command goes on with the others."
        assert said.splitlines()[-1] == kept, said
        before = record.read_bytes()
        done = radixrt("sweep", tmp_path / "recipe.toml", "--output", tmp_path / "sweep", "--jobs", "1")
        assert done.code == 0, done.err
        assert record.read_bytes() == before
        rows = Sweep.read(tmp_path / "sweep").rows
        assert [(row.state, row.device) for row in rows] == [("done", "shelf")] * 2
        assert all(row.figures is not None and row.figures.p50_ms is not None for row in rows)
        # Nobody answers there now: it is said before anything starts.
        loop.stop()
        lost = radixrt("sweep", tmp_path / "recipe.toml", "--output", tmp_path / "other", "--jobs", "1")
        assert lost.code == 4 and "shelf is not available: no machine of the sweep can use it" in lost.sentence
        assert not (tmp_path / "other" / "sweep.json").exists()
    finally:
        loop.stop()
