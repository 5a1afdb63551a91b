"""``make gpu-check`` as far as it goes without a GPU: engines on a stand-in for TensorRT, the rest on the processor."""

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

from benchmarks import device_kit, gpu_baseline, gpu_check
from radixrt.engines.bundle.folder import BundleWriter
from tests.engines.bundle.bundles import SIZE, manifest, tiny_network
from tests.engines.bundle.test_run_bundle import bare_environment
from tests.remote.loopback import PACKAGES

STAND_IN = Path(__file__).parent / "remote" / "stand_in_tensorrt.py"
NETWORK = "tiny"
FILES = [Path(module.__file__ or "") for module in (gpu_check, gpu_baseline)]


def same_network(path: Path, folder: Path) -> None:
    """The tiny network as PyTorch would have exported it."""
    import onnx
    import torch
    from onnx import numpy_helper

    weight, bias = (
        torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(folder / "deploy.onnx").graph.initializer
    )
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, len(bias)))
    with torch.no_grad():
        module[2].weight.copy_(weight.T)
        module[2].bias.copy_(bias)
    given, size = torch.zeros(2, 3, SIZE, SIZE), torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(module.eval(), (given,), dynamic_shapes=({0: size},)), path)


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
    images = np.random.default_rng(0).normal(size=(64, 3, SIZE, SIZE)).astype(np.float32)
    logits = onnxruntime.InferenceSession(str(folder / key / "deploy.onnx")).run(None, {"input": images})[0]
    np.savez(folder / "images.npz", input=images)
    known = {**dict.fromkeys(gpu_check.ORDER, logits), "labels": logits.argmax(1)}
    np.savez(folder / "answers.npz", pytorch=logits, **known)  # type: ignore[arg-type]  # of allow_pickle
    same_network(folder / "network.pt2", folder / key)
    sizes = device_kit.PART, device_kit.LIST
    device_kit.PART, device_kit.LIST = 300_000, 3_000
    try:
        device_kit.pack(folder, kit)
    finally:
        device_kit.PART, device_kit.LIST = sizes
    parts = list(kit.glob("[0-9][0-9]"))
    assert len(parts) > 2 and all(sum(file.stat().st_size for file in part.iterdir()) <= 300_000 for part in parts)
    for file in FILES:
        shutil.copyfile(file, kit / "00" / file.name)
    return kit


def check(kit: Path, output: Path, *more: object) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    command = [sys.executable, str(kit / "00" / "gpu_check.py"), str(kit), "--output", str(output), "--rounds", "3"]
    done = subprocess.run([*command, *map(str, more)], capture_output=True, text=True, check=False)
    return done, json.loads((output / "results.json").read_text())["networks"]


@pytest.mark.slow
def test_engines_are_built_held_and_timed_in_order_of_worth(kit: Path, tmp_path: Path) -> None:
    python = bare_environment(tmp_path / "venv", PACKAGES)
    inside = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    shutil.copyfile(STAND_IN, inside / "tensorrt.py")
    (inside / "pycuda").mkdir()
    (inside / "pycuda" / "__init__.py").write_text("")
    steered = ("--python", python, "--tactics", "none", "--builder-level", 2)
    done, found = check(kit, tmp_path / "out", "--only", "tensorrt", *steered)
    assert done.returncode == 0, done.stderr
    rows = found[NETWORK]
    assert list(rows) == list(gpu_check.TENSORRT)
    for row in rows.values():
        assert row["against_cpu_twin"]["top1_agreement"] == 1 and row["runtime"]["version"] == "10.3.0"
        assert row["against_cpu_twin"]["images"] == 64 and row["cosine_at_batch_1"] == pytest.approx(1)
        assert row["top1"] == {"here": 1, "cpu_twin": 1, "pytorch": 1}
        assert [(one["batch"], one["device_p50_ms"]) for one in row["latency"]] == [(1, 0.25), (64, 0.25)]
    assert "1.00 times as fast as tensorrt original-int8" in done.stdout and (tmp_path / "out/timings.cache").exists()
    # What has figures is not taken again, and what has none is: here no Python has PyTorch's GPU.
    (tmp_path / "venv").rename(tmp_path / "gone")
    done, found = check(kit, tmp_path / "out", "--only", "tensorrt", "pytorch eager", *steered)
    assert done.returncode == 0 and found[NETWORK]["pytorch eager b1"] == {"skipped": "PyTorch finds no GPU"}


# The code that will run on a GPU, run on the processor: what PyTorch and ONNX Runtime answer is what their twins do.
@pytest.mark.slow
def test_the_baselines_answer_as_the_cpu_twin_does(kit: Path, tmp_path: Path) -> None:
    # One row is compiled: it takes C++'s time, not PyTorch's.
    measured = ("pytorch eager", "pytorch graph", "pytorch compiled b64", "onnxruntime")
    done, found = check(kit, tmp_path / "out", "--device", "cpu", "--only", *measured)
    assert done.returncode == 1 and "no engine ran on a GPU" in done.stderr
    rows = found[NETWORK]
    assert set(rows) == {row for row in gpu_check.BESIDE if row.startswith(measured)}
    for name, row in rows.items():
        if "graph" in name:
            assert row == {"skipped": "a CUDA graph needs a GPU"}
            continue
        assert row.get("dtype", "bfloat16") == "bfloat16" and row["p50_ms"] > 0, (name, row)
        held = row["against_cpu_twin"]
        assert held["images"] == (64 if name.endswith("b64") else 1) and held["cosine_min"] > 0.999
        # Bfloat16 rounds: it was cast.
        assert (held["sqnr_db"] is not None and held["sqnr_db"] < 80) == name.startswith("pytorch")
    assert "pytorch compiled" in done.stdout


# A row that ends its process, or hangs, costs its own figures and no others.
def test_a_row_that_ends_the_process_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpu_baseline.py").write_text(
        "import json, os, sys, time\n"
        "for row in sys.argv[sys.argv.index('--rows') + 1:]:\n"
        "    'crash' in row and os.abort()\n"
        "    'hang' in row and time.sleep(60)\n"
        "    print(json.dumps({'row': row, 'value': {'skipped': row}}), flush=True)\n"
    )
    monkeypatch.setattr(gpu_check, "__file__", str(tmp_path / "gpu_check.py"))
    np.savez(tmp_path / "answers.npz", pytorch=np.zeros((1, 2)))
    args = gpu_check.argparse.Namespace(output=tmp_path, device="cpu", rounds=1, most=2)
    rows = ["a", "crash", "b", "hang", "c"]
    found = dict(gpu_check.beside(gpu_check.Network(tmp_path), rows, 0, args))
    assert list(found) == ["a", "crash", "b", "hang", "c"]
    assert [name for name, value in found.items() if value.get("skipped") == name] == ["a", "b", "c"]
    assert "-6" in found["crash"]["failed"] and "took over 2 s" in found["hang"]["failed"]


# Ten minutes on a device end in the middle: what decides comes first.
def test_the_order_of_worth(tmp_path: Path) -> None:
    np.savez(tmp_path / "answers.npz", pytorch=np.zeros((1, 2)))
    first, small = (gpu_check.Network(tmp_path) for _ in range(2))
    jobs = gpu_check.in_order([first, small])
    assert len(jobs) == len(set(jobs)) == 2 * (len(gpu_check.TENSORRT) + len(gpu_check.BESIDE))
    assert jobs[:3] == [
        (first, row) for row in ("tensorrt rewritten-int8", "tensorrt original-int8", "pytorch compiled b1")
    ]
    assert jobs.index((small, "tensorrt rewritten-int8")) < jobs.index((first, "tensorrt rewritten-fp16"))


# A check that looked at no engine must not look like one that passed.
def test_it_fails_where_no_engine_ran_on_a_gpu(kit: Path, tmp_path: Path) -> None:
    done, found = check(kit, tmp_path / "a", "--seconds", 0)
    assert done.returncode == 1 and "no engine ran on a GPU" in done.stderr
    assert {row["skipped"] for row in found[NETWORK].values()} == {"no time was left"}
    damaged = tmp_path / "kit"
    shutil.copytree(kit, damaged)
    next(damaged.glob("*/*.01")).write_bytes(b"other")
    done, found = check(damaged, tmp_path / "b")
    assert done.returncode == 1 and "copy it again" in found[NETWORK]["unpacking"]["failed"]


@pytest.mark.slow
def test_without_tensorrt_each_row_says_so(kit: Path, tmp_path: Path) -> None:
    python = bare_environment(tmp_path / "venv", PACKAGES)
    done, found = check(kit, tmp_path / "out", "--only", "tensorrt", "--python", python)
    assert done.returncode == 1 and "no engine ran on a GPU" in done.stderr
    assert all("tensorrt is not installed" in row["failed"] for row in found[NETWORK].values())


def test_a_folder_without_a_kit_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, gpu_check.__file__, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_stands_alone_under_python_38(file: Path) -> None:
    source = file.read_text()
    ast.parse(source, feature_version=(3, 8))
    assert "radixrt" not in "".join(line for line in source.splitlines() if line.strip().startswith(("import", "from")))
