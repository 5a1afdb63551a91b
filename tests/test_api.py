"""A loaded engine from Python: what it takes, from how many threads, and what it says of a network's end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

import radixrt as rt
from radixrt.api import LoadedEngine
from radixrt.engines.bundle.folder import BundleWriter
from radixrt.errors import InputError
from radixrt.export.graph.output_kind import OutputKind
from radixrt.validate.schema import Report
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import SIZE, manifest, tiny_network, write_bundle
from tests.engines.toy import ToySession
from tests.photographs import write_image, write_photographs

IMAGES = np.random.default_rng(0).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)
ENDS = {
    "Softmax": OutputKind.PROBABILITIES,
    "Sigmoid": OutputKind.SCORES,
    "LogSoftmax": OutputKind.LOG_PROBABILITIES,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedEngine]:
    bundle = write_bundle(tmp_path_factory.mktemp("api") / "bundle", batch=(1, 3))
    with rt.load(bundle.path) as opened:
        yield opened


@pytest.mark.parametrize("batch", [(1, 1), (1, 3), (2, 2)])
def test_no_image_gives_an_empty_answer_of_the_right_shape(tmp_path: Path, batch: tuple[int, int]) -> None:
    with rt.load(write_bundle(tmp_path / "bundle", batch=batch).path) as engine:
        assert engine(IMAGES[:0]).shape == (0, 4)
        assert engine(IMAGES[:0]).dtype == np.float32
        assert engine.outputs(IMAGES[:0])["logits"].shape == (0, 4)
        with pytest.raises(InputError, match="shape"):
            engine(np.zeros((0, 3, 5, 5), np.float32))


def test_out_takes_the_answer(engine: LoadedEngine) -> None:
    out = np.full((5, 4), np.nan, np.float32)
    assert engine(IMAGES, out=out) is out
    np.testing.assert_array_equal(out, engine(IMAGES))
    for bad in (np.zeros((4, 4), np.float32), np.zeros((5, 4))):
        with pytest.raises(InputError, match="out is"):
            engine(IMAGES, out=bad)


def test_classify_takes_whatever_holds_an_image(engine: LoadedEngine, tmp_path: Path) -> None:
    files = [write_image(tmp_path / "images" / f"{index}.png", index) for index in range(5)]
    pictures = [Image.open(file).convert("RGB") for file in files]
    arrays = [np.asarray(picture) for picture in pictures]

    def answers(given: object) -> list[tuple[str, float]]:
        return [(a.label, pytest.approx(a.probability, abs=1e-6)) for a in engine.classify(given, top=1)]  # type: ignore[arg-type]

    expected = answers(tmp_path / "images")
    assert len(expected) == 5
    assert answers(files) == answers([str(file) for file in files]) == expected
    assert answers(pictures) == answers(arrays) == answers(np.stack(arrays)) == answers(iter(arrays)) == expected
    assert answers([files[0], pictures[1], arrays[2]]) == expected[:3]
    assert answers(files[1]) == answers(pictures[1]) == answers(arrays[1]) == expected[1:2]
    assert answers([]) == []
    names = [answer.image for answer in engine.classify([files[0], arrays[1]], top=1)]
    assert names == [str(files[0]), "#1"]


@pytest.mark.parametrize("bad", [np.zeros((8, 8, 3)), np.zeros((8, 8, 4), np.uint8), np.zeros(8, np.uint8)])
def test_an_array_that_is_no_image_is_one_sentence(engine: LoadedEngine, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="#0 is not an image that can be read"):
        list(engine.classify(bad))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_many_threads_get_the_answers_of_one(tmp_path: Path, target: str) -> None:
    pytest.importorskip(target)
    with BundleWriter(tmp_path / "bundle") as writer:
        tiny_network(writer.folder / "deploy.onnx", "batch")
        from radixrt.engines.base import BuildOptions
        from radixrt.engines.registry import get
        from radixrt.export.spec import BatchSpec, Precision

        options = BuildOptions(Precision.FP32, BatchSpec(1, 3))
        built = get(target).build(writer.folder / "deploy.onnx", writer.folder, options)
        writer.finish(manifest(target=target, batch=(1, 3), engine=built.files[0].name))
    with rt.load(tmp_path / "bundle") as engine, ThreadPoolExecutor(8) as pool:
        shifted = [IMAGES + number for number in range(64)]
        expected = [engine(images) for images in shifted]
        for found, right in zip(pool.map(engine, shifted), expected, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def test_a_runtime_that_takes_one_call_at_a_time_gets_one(tmp_path: Path) -> None:
    tiny_network(tmp_path / "tiny.onnx", "batch")
    inside = 0

    class Counting(ToySession):
        def _run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            nonlocal inside
            inside += 1
            assert inside == 1
            answer = super()._run(feeds)
            inside -= 1
            return answer

    session = Counting(tmp_path / "tiny.onnx")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: session.run({"input": IMAGES}), range(20)))


def test_an_engine_that_was_closed_says_so_in_every_thread(tmp_path: Path) -> None:
    engine = rt.load(write_bundle(tmp_path / "bundle", batch=(1, 3)).path)

    def call(_: int) -> bool:
        try:
            return engine(IMAGES).shape == (5, 4)
        except InputError as error:
            return "closed" in str(error)

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(call, number) for number in range(200)]
        engine.close()
        assert all(done.result() for done in calls)


def ending_in(path: Path, end: str) -> Path:
    """The tiny network with one more node at its end."""
    tiny_network(path, "batch")
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node(end, ["raw"], ["logits"], **({} if end == "Sigmoid" else {"axis": 1})))
    onnx.save(model, path)
    return path


# The file's own numbers are the probabilities, in the bundle's every tool: no second softmax makes others of them.
@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
def test_what_a_file_ends_in_is_taken_as_it_is(tmp_path: Path, end: str) -> None:
    (tmp_path / "data").mkdir()
    data, bundle = write_photographs(tmp_path / "data"), tmp_path / "bundle"
    words = (
        "--data",
        data,
        "--input-size",
        f"3,{SIZE},{SIZE}",
        "-p",
        "fp32",
        "-o",
        bundle,
        "--batch",
        "1..4",
        "--latency-rounds",
        2,
    )
    done = radixrt("engine", ending_in(tmp_path / "net.onnx", end), *words, "--target", "onnxruntime")
    assert done.code == 0, done.err
    kind = ENDS[end]
    recorded = json.loads((bundle / "manifest.json").read_text())
    assert recorded["outputs"][0]["kind"] == kind.value

    photograph = next(data.rglob("*.png"))
    with rt.load(bundle) as engine:
        found = {answer.label: answer.probability for answer in engine.classify(photograph)}
        image = _prepared(photograph, engine)
        values = engine(image)[0].astype(np.float64)
    shares = np.exp(values) if end == "LogSoftmax" else values
    labels = recorded["labels"] or [str(index) for index in range(4)]
    assert found == pytest.approx(dict(zip(labels, shares, strict=True)), abs=1e-6)

    command = [sys.executable, str(bundle / "run.py"), str(photograph), "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    best = told["results"][0]["top5"][0]
    assert best["probability"] == pytest.approx(max(shares), abs=1e-5)

    report = Report.read(bundle / "report.json")
    assert report.parity is not None and report.parity.kind is kind
    assert report.parity.softmax_kl < 1e-9
    assert report.parity.worst[0].reference_confidence <= 1
    assert f"cosine of the {kind.value}, smallest" in (bundle / "report.md").read_text()
    assert any(f"ends in {kind.value}" in note for note in report.notes)


def _prepared(photograph: Path, engine: LoadedEngine) -> np.ndarray:
    from radixrt.calibration.data.pixels import open_image, preprocess_image

    return preprocess_image(open_image(photograph), engine.bundle.manifest.preprocessing)[None]
