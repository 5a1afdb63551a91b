"""Protects a sweep on this machine alone: Ctrl-C keeps what is finished, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from radixrt.fleet.schema import Sweep
from tests.cli_runner import COMMAND, radixrt
from tests.faults.sweeps import write_recipe
from tests.photographs import write_photographs

pytest.importorskip("ray")


@pytest.mark.slow
def test_ctrl_c_keeps_finished_rows(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_photographs(tmp_path / "data")
    recipe = write_recipe(tmp_path, 2)
    words = ["sweep", str(recipe), "--output", str(tmp_path / "sweep"), "--jobs", "1"]
    process = subprocess.Popen(
        [*COMMAND, *words],
        env={**os.environ, "RAY_memory_monitor_refresh_ms": "0"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    record = tmp_path / "sweep" / "rows" / "net0-fp32-onnxruntime.json"
    while not record.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    kept = "Interrupted: 1 of 2 rows are finished and stay; the same command goes on with the others."
    assert said.splitlines()[-1] == kept, said
    before = record.read_bytes()
    done = radixrt(*words)
    assert done.code == 0, done.err
    assert record.read_bytes() == before
    assert [row.state for row in Sweep.read(tmp_path / "sweep").rows] == ["done", "done"]
