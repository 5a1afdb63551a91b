"""run.py: classifies with numpy, Pillow and the engine's runtime alone, and prepares images as the build did."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import radixrt as rt
from radixrt.calibration.data.pixels import open_image, preprocess_image
from radixrt.engines.base import BuildOptions
from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.engines.bundle.runner import travelling_modules
from radixrt.engines.cpu.openvino import OpenVinoTarget
from radixrt.export.spec import BatchSpec, Precision
from tests.engines.bundle.bundles import manifest, tiny_network, write_bundle

ENGINES = Path(__file__).resolve().parents[3] / "engines" / "bundle"
SHIPPED = [ENGINES / "run_bundle.py", *travelling_modules()]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for index in range(5):
        pixels = rng.integers(0, 256, size=(40 + index, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", batch=(1, 3)).path


def run(bundle: Path, *arguments: object, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, str(bundle / "run.py"), *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def expected_top(bundle: Path, photo: Path) -> tuple[str, float]:
    """The best label and its share, by the package's own preprocessing and ONNX Runtime."""
    manifest = Bundle.read(bundle).manifest
    tensor = preprocess_image(open_image(photo), manifest.preprocessing)
    logits = onnxruntime.InferenceSession(str(bundle / manifest.engine)).run(None, {"input": tensor[None]})[0][0]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return manifest.labels[int(shares.argmax())], float(shares.max())


def test_a_folder_is_classified_as_the_package_would(bundle: Path, photos: Path) -> None:
    # Five images in batches of three: the second batch is shorter.
    done = run(bundle, photos, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [Path(result["image"]).name for result in results] == [f"{i}.png" for i in range(5)]
    for result in results:
        label, share = expected_top(bundle, Path(result["image"]))
        assert result["top5"][0]["label"] == label
        assert result["top5"][0]["probability"] == pytest.approx(share, abs=2e-6)
        assert sum(row["probability"] for row in result["top5"]) == pytest.approx(1, abs=1e-5)


def test_a_fixed_batch_is_filled_up(tmp_path: Path, photos: Path) -> None:
    fixed = write_bundle(tmp_path / "fixed", batch=(2, 2)).path
    done = run(fixed, photos, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert len(results) == 5
    assert results[4]["top5"][0]["label"] == expected_top(write_bundle(tmp_path / "one").path, photos / "4.png")[0]


def test_text_output_and_bench(bundle: Path, photos: Path) -> None:
    done = run(bundle, photos / "0.png", "--bench", "--rounds", 5)
    assert done.returncode == 0, done.stderr
    assert expected_top(bundle, photos / "0.png")[0] in done.stdout.splitlines()[1]
    assert "p50_ms" in done.stdout
    assert "images_per_s" in done.stdout


# What a server needs to know is how the time grows with the batch.
def test_bench_times_the_batches_that_are_asked_for(bundle: Path, photos: Path) -> None:
    done = run(bundle, photos / "0.png", "--bench", "--rounds", 5, "--batch", "3,1", "--json")
    assert done.returncode == 0, done.stderr
    latency = json.loads(done.stdout)["latency"]
    assert [(row["batch"], len(row["samples_ms"])) for row in latency] == [(1, 5), (3, 5)]
    refused = run(bundle, photos / "0.png", "--bench", "--batch", "4")
    assert refused.returncode == 2 and "no batch of 4, only of 1..3" in refused.stderr


def prepared(bundle: Path, photos: Path) -> np.ndarray:
    spec = Bundle.read(bundle).manifest.preprocessing
    return np.stack([preprocess_image(open_image(photos / f"{index}.png"), spec) for index in range(5)])


# What another program prepared goes in as it is, and all that the network says comes out.
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_go_in_and_every_output_comes_out(bundle: Path, photos: Path, tmp_path: Path, ending: str) -> None:
    images = prepared(bundle, photos)
    given = tmp_path / f"x.{ending}"
    np.savez(given, other=np.zeros(3), input=images) if ending == "npz" else np.save(given, images)
    done = run(bundle, "--input", given, "--output", tmp_path / "y.npz", "--json")
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(str(bundle / "engine.onnx"))
    with np.load(tmp_path / "y.npz") as found:
        assert found.files == ["logits"]
        np.testing.assert_allclose(found["logits"], session.run(None, {"input": images})[0], rtol=1e-6)
    told = json.loads(done.stdout)
    assert [row["image"] for row in told["results"]] == [f"{given}[{index}]" for index in range(5)]
    assert told["engine"] == str(bundle / "engine.onnx")
    assert told["runtime"] == {"name": "onnxruntime", "version": onnxruntime.__version__}
    by_picture = json.loads(run(bundle, photos, "--json").stdout)
    assert [row["top5"] for row in told["results"]] == [row["top5"] for row in by_picture["results"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == [given.name, "y.npz"]
    Bundle.read(bundle)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "has shape (2, 32, 32, 3) for input: the engine takes (N, 3, 32, 32)"),
        (np.zeros((0, 3, 32, 32), np.float32), "the engine takes (N, 3, 32, 32)"),
        (np.zeros((2, 3, 32, 32), np.uint8), "holds uint8 for input: give floats"),
        (np.array([None]), "not a .npy or .npz file of numbers"),
        ({"a": np.zeros(1), "b": np.zeros(1)}, "holds a, b: name the array 'input'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(bundle: Path, tmp_path: Path, array: Any, said: str) -> None:
    given = tmp_path / "x"
    with given.open("wb") as stream:
        np.savez(stream, **array) if isinstance(array, dict) else np.save(stream, array)
    done = run(bundle, "--input", given)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_one_image_needs_no_batch_dimension(bundle: Path, photos: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", prepared(bundle, photos)[0].astype(np.float64))
    done = run(bundle, "--input", tmp_path / "x.npy", "--json", "--bench", "--rounds", 3)
    told = json.loads(done.stdout)
    assert len(told["results"]) == 1 and told["latency"][0]["p50_ms"] > 0
    # A CPU has no clock beside the host's.
    assert not [key for key in told["latency"][0] if key.startswith("device")]


def test_the_bundle_takes_no_output(bundle: Path, photos: Path) -> None:
    done = run(bundle, photos / "0.png", "--output", bundle / "y.npz")
    assert done.returncode == 2 and "sealed" in done.stderr
    Bundle.read(bundle)


# Pillow is for pictures: who has arrays needs numpy and the engine's runtime.
@pytest.mark.slow
def test_arrays_need_no_pillow(bundle: Path, photos: Path, tmp_path: Path) -> None:
    python = bare_environment(tmp_path / "venv", ("numpy", "onnxruntime"))
    np.save(tmp_path / "x.npy", prepared(bundle, photos))
    done = run(bundle, "--input", tmp_path / "x.npy", "--json", python=python)
    assert done.returncode == 0 and len(json.loads(done.stdout)["results"]) == 5, done.stderr
    done = run(bundle, photos, python=python)
    assert (done.returncode, "pictures need pillow" in done.stderr) == (4, True)


def test_running_leaves_the_bundle_sealed(bundle: Path, photos: Path) -> None:
    assert run(bundle, photos / "0.png").returncode == 0
    Bundle.read(bundle)


def test_a_changed_byte_is_refused(tmp_path: Path, bundle: Path, photos: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    engine = bytearray((copy / "engine.onnx").read_bytes())
    engine[-1] ^= 1
    (copy / "engine.onnx").write_bytes(bytes(engine))
    done = run(copy, photos / "0.png")
    assert done.returncode == 2
    assert "engine.onnx is not what the build wrote" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_python_without_numpy_is_told_what_to_install(bundle: Path, photos: Path) -> None:
    # -S: no site-packages, as on a machine where nothing was installed.
    command = [sys.executable, "-S", str(bundle / "run.py"), str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "pip install numpy pillow" in done.stderr
    assert "Traceback" not in done.stderr
    # Help needs nothing.
    done = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, "--require-signature" in done.stdout, done.stderr) == (0, True, "")


def test_a_reader_that_has_enough_is_no_error(bundle: Path, photos: Path) -> None:
    ends, starts = os.pipe()
    os.close(ends)  # nobody reads
    with os.fdopen(starts, "w") as full:
        command = [sys.executable, str(bundle / "run.py"), str(photos)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "name an image"),
        (["nothing.png"], 2, "does not exist"),
        (["{photos}/broken.png"], 2, "is not an image that can be read"),
        (["{photos}/empty"], 2, "holds no image"),
        (["--build"], 4, "is not installed"),
        (["--build", "--batch", "4..2"], 2, "no range of batch sizes"),
        (["--build", "--batch", "a"], 2, "neither a batch size nor a range"),
        (["--batch", "2", "{photos}/0.png"], 2, "--batch is for --build"),
        (["--build", "--bench"], 2, "name an image"),
        (["{photos}/0.png", "--input", "x.npy"], 2, "not both"),
        (["--input", "{photos}/none.npy"], 2, "cannot be read"),
        (["--input", "{photos}/0.png"], 2, "is not a .npy or .npz file"),
        (["{photos}/0.png", "--output", "{photos}/1.png/y.npz"], 2, "cannot be written"),
        (["{photos}/0.png", "--runtime", "tensorrt"], 4, "is not installed"),
    ],
)
def test_errors_are_one_sentence_with_the_documented_code(
    bundle: Path, photos: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "empty").mkdir()
    done = run(bundle, *(argument.format(photos=folder) for argument in arguments))
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in done.stderr


# An engine that the manifest does not list has no hash, and may lie anywhere.
@pytest.mark.parametrize(
    "change",
    [
        {"files": [{"name": "../x", "sha256": ""}]},
        {"format": "x"},
        {"batch": None},
        {"engine": "../other/engine.onnx"},
        {"deploy": "/graph.onnx"},
        {"labels": None},
        {"target": "another"},
        {"outputs": []},
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, bundle: Path, photos: Path, change: dict[str, object]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    content = json.loads((copy / "manifest.json").read_text()) | change
    (copy / "manifest.json").write_text(json.dumps(content))
    done = run(copy, photos / "0.png")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr


@pytest.mark.parametrize("source", SHIPPED)
def test_what_ships_is_python_38(source: str) -> None:
    ast.parse(source.read_text(), feature_version=(3, 8))


def test_what_ships_imports_nothing_of_the_project() -> None:
    for source in SHIPPED:
        tree = ast.parse(source.read_text())
        modules = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        } | {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert modules - set(sys.stdlib_module_names) <= {
            "numpy",
            "PIL",
            "cryptography",
            *(module.stem for module in travelling_modules()),
        }  # the last for --require-signature alone


def oldest_python() -> str:
    """The oldest supported Python that is here: run.py promises 3.8."""
    names = [f"python3.{minor}" for minor in range(8, 14)]
    # Those of a version manager are not on the path unless they are active.
    managed = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [python for name in names for python in (*managed.glob(f"*/bin/{name}"), shutil.which(name)) if python]
    return next((str(python) for python in found if _starts(str(python))), sys.executable)


def _starts(python: str) -> bool:
    # A version manager's stand-in is on the path for versions that are not active, and fails when it is called.
    return subprocess.run([python, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode == 0


def bare_environment(folder: Path, packages: tuple[str, ...], python: str = "") -> str:
    """A Python that finds the standard library and links to the packages named, of those that are installed here."""
    if python:
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True)
    else:
        venv.create(folder, with_pip=False)
    inside = next(folder.glob("lib/python*/site-packages"))
    here = Path(np.__file__).parents[1]
    for package in packages:
        for path in (*here.glob(package), *here.glob(f"{package}.libs")):
            (inside / path.name).symlink_to(path)
    return str(folder / "bin" / "python")


# What was compiled for OpenVINO must run where nothing of the project is, and answer as the package does.
@pytest.mark.slow
@pytest.mark.parametrize("batch", [(1, 3), (2, 2)])
def test_an_openvino_bundle_runs_where_only_numpy_pillow_and_openvino_are(
    tmp_path: Path, photos: Path, batch: tuple[int, int]
) -> None:
    pytest.importorskip("openvino")
    python = bare_environment(tmp_path / "venv", ("numpy", "PIL", "pillow", "openvino"))
    for absent in ("torch", "onnxruntime"):
        assert subprocess.run([python, "-c", f"import {absent}"], capture_output=True, check=False).returncode
    with BundleWriter(tmp_path / "bundle") as writer:
        tiny_network(writer.folder / "deploy.onnx", batch[0] if batch[0] == batch[1] else "batch")
        built = OpenVinoTarget().build(
            writer.folder / "deploy.onnx", writer.folder, BuildOptions(Precision.FP32, BatchSpec(*batch))
        )
        writer.finish(manifest(target="openvino", batch=batch, engine=built.files[0].name))
    done = run(tmp_path / "bundle", photos, "--json", "--bench", "--rounds", 3, python=python)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["latency"][0]["p50_ms"] > 0
    with rt.load(tmp_path / "bundle") as engine:
        expected = {Path(a.image).name: a for a in engine.classify(photos, top=1)}
    assert len(told["results"]) == len(expected) == 5
    for result in told["results"]:
        best, answer = result["top5"][0], expected[Path(result["image"]).name]
        assert (best["label"], best["probability"]) == (answer.label, pytest.approx(answer.probability, abs=1e-5))
    Bundle.read(tmp_path / "bundle")
    weights = tmp_path / "bundle" / "engine.bin"
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    done = run(tmp_path / "bundle", photos, python=python)
    assert (done.returncode, "engine.bin is not what the build wrote" in done.stderr) == (2, True)


@pytest.mark.slow
def test_it_runs_where_only_numpy_pillow_and_onnxruntime_are(tmp_path: Path, bundle: Path, photos: Path) -> None:
    environment = tmp_path / "venv"
    subprocess.run([oldest_python(), "-m", "venv", str(environment)], check=True)
    inside = str(environment / "bin" / "python")
    install = [
        inside,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "numpy",
        "pillow",
        "onnxruntime",
    ]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the packages cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    copied = tmp_path / "carried" / "tiny"
    shutil.copytree(bundle, copied)
    assert run(copied, "--help", python=inside).returncode == 0
    listing = subprocess.run([inside, "-c", "import torch"], capture_output=True, check=False)
    assert listing.returncode != 0, "PyTorch is in the bare environment: this test would prove nothing"
    done = run(copied, photos, "--json", python=inside)
    assert done.returncode == 0, done.stderr
    best = {Path(r["image"]).name: r["top5"][0] for r in json.loads(done.stdout)["results"]}
    for name, row in best.items():
        label, share = expected_top(bundle, photos / name)
        # Another Pillow and another ONNX Runtime: the same picture to rounding.
        assert (row["label"], row["probability"]) == (label, pytest.approx(share, abs=1e-3))
    Bundle.read(copied)
