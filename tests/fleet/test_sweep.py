"""Protects a sweep from end to end, on a cluster of two nodes that lose a worker, then a node.

What cannot be compiled ends alone with its sentence, what died is tried again, a device's row is made where the device
is kept, and the same command does no finished row again.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from radixrt.engines.bundle.folder import Bundle
from radixrt.fleet.schema import Sweep
from tests.cli_runner import COMMAND, radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs
from tests.remote.loopback import MISSING, Loopback

ray = pytest.importorskip("ray")

RECIPE = """
model = ["tiny.onnx", "broken.onnx", "dies.py:make", {model = "leaves.py:make", name = "a"},
         {model = "leaves.py:make", name = "b"}, {model = "kept.py:make", name = "kept"}]
data = "photographs"
precision = "fp32"
target = ["openvino", "onnxruntime"]
latency_rounds = 3
[preprocess]
input_size = [3, 32, 32]
"""
DEVICE = """
[device.shelf]
ssh = "loop"
ssh_config = "{0.folder}/ssh_config"
python = "{0.python}"
folder = "{0.folder}/work"
target = "onnxruntime"
"""
NETWORK = """
import os, pathlib, signal, time
from torch import nn

GONE = pathlib.Path({gone!r})

def make(num_classes=4):
    {does}
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
"""
DIES = "os.kill(os.getpid(), signal.SIGKILL)"
# On the second node it takes the node down, on the first it waits for that: one of two such rows meets each.
LEAVES = """if os.environ["NODE"] == "second":
        GONE.touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    while not GONE.exists():
        time.sleep(0.1)"""
KEPT = """if os.environ["NODE"] != "first":
        raise RuntimeError("made where the device is not kept")"""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster of two nodes, started in two folders as `ray start` does on two hosts; one core each."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    here = f"{ray.util.get_node_ip_address()}:{port}"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    start += ["--num-cpus", "1", "--object-store-memory", "80000000"]
    with tempfile.TemporaryDirectory(prefix="rt", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        head = ["--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", scratch]
        head += ["--resources", '{"shelf": 1}']
        nodes = []
        for name, words in (("first", head), ("second", ["--address", here])):
            (tmp_path / name).mkdir()
            monkeypatch.setenv("NODE", name)
            nodes.append(subprocess.Popen([*start, *words], cwd=tmp_path / name, stdout=subprocess.PIPE, text=True))
            assert any("Ray runtime started" in line for line in nodes[-1].stdout or ())
        yield here
        for node in reversed(nodes):
            node.terminate()
            node.communicate()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    """The table of a device on this machine; nothing where no sshd is to be had."""
    (tmp_path / "loop").mkdir()
    with contextlib.ExitStack() as stack:
        if not MISSING:
            loop = Loopback(tmp_path / "loop").start()
            stack.callback(loop.stop)
        yield DEVICE.format(loop) if not MISSING else ""


@pytest.mark.slow
def test_one_row_that_cannot_be_and_one_machine_that_leaves_end_nothing_else(
    tmp_path: Path, address: str, device: str
) -> None:
    (tmp_path / "photographs").mkdir()
    write_photographs(tmp_path / "photographs")
    tiny_network(tmp_path / "tiny.onnx", "batch")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    for name, does in (("dies", DIES), ("leaves", LEAVES), ("kept", KEPT if device else "pass")):
        (tmp_path / f"{name}.py").write_text(NETWORK.format(gone=str(tmp_path / "gone"), does=does))
    recipe, output = tmp_path / "recipe.toml", tmp_path / "sweep"
    recipe.write_text(RECIPE + device)
    bad = [f"{tmp_path}/broken.onnx", f"{tmp_path}/dies.py:make"]
    here = [f"target=onnxruntime,model={name}" for name in (f"{tmp_path}/tiny.onnx", *bad, "a", "b")]
    without = [word for one in (*here, "target=openvino,model=kept") for word in ("--exclude", one)]
    # In a process of its own: Ray keeps the way it proves itself from a process's first cluster to its last.
    words = ["sweep", str(recipe), "--output", str(output), "--address", address, *without]
    done = subprocess.run([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 3 and "2 of 6 rows failed" in done.stderr, done.stderr
    rows = {row.name.partition("-")[0]: row for row in Sweep.read(output).rows}
    # The file is called what the user calls it, also where it was sent to.
    assert rows["broken"].reason.startswith(f"{tmp_path / 'broken.onnx'} is truncated or is not an ONNX file")
    assert rows["dies"].reason == "it was tried twice: its process died on the way, killed or by a library's fault"
    finished = [rows[name] for name in ("tiny", "a", "b", "kept")]
    assert all(row.state == "done" and row.figures is not None for row in finished), [row.reason for row in finished]
    assert rows["kept"].figures is not None and rows["kept"].figures.p50_ms is not None
    assert rows["kept"].device == ("shelf" if device else "")
    assert (tmp_path / "gone").exists()
    bundle = Bundle.read(output / rows["tiny"].name)
    assert 'model = "' + str(tmp_path / "tiny.onnx") in (bundle.path / "recipe.toml").read_text()
    # With the bad ones left out, nothing is left to do: no process starts, and no row is made anew.
    less = [word for one in bad for word in ("--exclude", f"model={one}")]
    again = radixrt("sweep", recipe, "--output", output, *without, *less)
    assert again.code == 0, again.err
    assert Bundle.read(bundle.path).manifest_bytes == bundle.manifest_bytes
    assert (output / "index.html").exists() and (output / "junit.xml").exists()
