"""``make gpu-check`` as far as it goes without a GPU: on a stand-in for TensorRT, and its failing ends."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from benchmarks import device_kit, gpu_check
from radixrt.engines.bundle.folder import BundleWriter
from tests.engines.bundle.bundles import SIZE, manifest, tiny_network
from tests.engines.bundle.test_run_bundle import bare_environment
from tests.remote.loopback import PACKAGES

STAND_IN = Path(__file__).parent / "remote" / "stand_in_tensorrt.py"
NETWORK = "tiny"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of one network, in several parts."""
    scratch, kit = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("kit")
    folder = scratch / NETWORK
    folder.mkdir()
    for key in gpu_check.ORDER:
        with BundleWriter(folder / key) as writer:
            tiny_network(writer.folder / "deploy.onnx", "batch")
            left = manifest(target="tensorrt", batch=(1, 64)).model_copy(update={"engine": None, "executed": False})
            writer.finish(left)
    images = np.random.default_rng(0).normal(size=(8, 3, SIZE, SIZE)).astype(np.float32)
    logits = onnxruntime.InferenceSession(str(folder / key / "deploy.onnx")).run(None, {"input": images})[0]
    np.savez(folder / "images.npz", input=images)
    np.savez(folder / "answers.npz", pytorch=logits, **dict.fromkeys(gpu_check.ORDER, logits))
    size, device_kit.PART = device_kit.PART, 3000
    try:
        parts = device_kit.pack(folder, NETWORK, kit)
    finally:
        device_kit.PART = size
    assert len(parts) > 2 and all((kit / part).stat().st_size <= 3000 for part in parts)
    hashes = {part: device_kit.sha256_of(kit / part) for part in parts}
    (kit / f"{NETWORK}.json").write_text(json.dumps(hashes))
    return kit


def check(kit: Path, output: Path, *more: object) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    command = [sys.executable, gpu_check.__file__, str(kit), "--output", str(output), "--rounds", "3", *map(str, more)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, json.loads((output / "results.json").read_text())["networks"]


@pytest.mark.slow
def test_engines_are_built_held_and_timed_in_order_of_worth(kit: Path, tmp_path: Path) -> None:
    python = bare_environment(tmp_path / "venv", PACKAGES)
    inside = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    shutil.copyfile(STAND_IN, inside / "tensorrt.py")
    (inside / "pycuda").mkdir()
    (inside / "pycuda" / "__init__.py").write_text("")
    done, found = check(kit, tmp_path / "out", "--python", python, "--tactics", "none")
    assert done.returncode == 0, done.stderr
    rows = found[NETWORK]
    assert [key for key in rows if not key.startswith("pytorch")] == list(gpu_check.ORDER)
    for key in gpu_check.ORDER:
        assert rows[key]["against_cpu_twin"]["top1_agreement"] == 1 and rows[key]["runtime"]["version"] == "10.3.0"
        assert [(row["batch"], row["device_p50_ms"]) for row in rows[key]["latency"]] == [(1, 0.25), (64, 0.25)]
    # The baseline has no GPU here: that is written down, and costs the engines nothing.
    assert "RuntimeError" in rows["pytorch b1"]["failed"]
    assert "tensorrt rewritten-int8" in done.stdout and (tmp_path / "out" / "timings.cache").exists()


# A check that looked at no engine must not look like one that passed.
def test_it_fails_where_no_engine_ran_on_a_gpu(kit: Path, tmp_path: Path) -> None:
    done, found = check(kit, tmp_path / "a", "--seconds", 0)
    assert done.returncode == 1 and "no engine ran on a GPU" in done.stderr
    assert {row["skipped"] for row in found[NETWORK].values()} == {"no time was left"}
    damaged = tmp_path / "kit"
    shutil.copytree(kit, damaged)
    next(damaged.glob("*.01")).write_bytes(b"other")
    done, found = check(damaged, tmp_path / "b")
    assert done.returncode == 1 and "copy it again" in found[NETWORK]["unpacking"]["failed"]


@pytest.mark.slow
def test_without_tensorrt_each_row_says_so(kit: Path, tmp_path: Path) -> None:
    done, found = check(kit, tmp_path / "out", "--python", bare_environment(tmp_path / "venv", PACKAGES))
    assert done.returncode == 1 and "no engine ran on a GPU" in done.stderr
    assert all("tensorrt is not installed" in found[NETWORK][key]["failed"] for key in gpu_check.ORDER)


def test_a_folder_without_a_kit_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, gpu_check.__file__, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == 2


def test_it_stands_alone_under_python_38() -> None:
    source = Path(gpu_check.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    assert "radixrt" not in "".join(line for line in source.splitlines() if line.strip().startswith(("import", "from")))
