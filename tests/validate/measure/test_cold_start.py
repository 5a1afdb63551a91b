"""Time per layer, cold start and pictures, each on a real file."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from radixrt.engines.registry import get
from radixrt.errors import RadixRTError
from radixrt.validate.measure.cold_start import ColdStart, cold_start
from radixrt.validate.report.thumbnails import MOST, thumbnails

NET = """<ir_version: 10, opset_import: ["" : 19]>
net (float[batch, 3, 32, 32] input) => (float[batch, 16, 32, 32] logits)
<float[16, 3, 3, 3] w, float[16, 16, 3, 3] v>
{
  c = Conv <pads = [1, 1, 1, 1]> (input, w)
  r = Relu (c)
  logits = Conv <pads = [1, 1, 1, 1]> (r, v)
}"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(NET)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (16, 3, 3, 3)), ("v", (16, 16, 3, 3)))
    )
    for node, name in zip(model.graph.node, ("/stem/Conv", "/act/Relu", "/layer1/layer1.0/conv1/Conv"), strict=True):
        node.name = name
    file = tmp_path_factory.mktemp("engine") / "engine.onnx"
    onnx.save(model, file)
    return file


def test_cold_start_of_a_fresh_process(engine: Path) -> None:
    found = cold_start(get("onnxruntime"), engine, threads=1)
    assert isinstance(found, ColdStart) and found.load_ms > 0 and found.first_inference_ms > 0
    assert 10e6 < found.peak_bytes < 1e9, "a process without PyTorch"


# A plan for 4 to 8 images refuses one: this graph, which takes pairs, stands in for it.
def test_the_first_inference_is_at_the_smallest_batch(tmp_path: Path) -> None:
    pairs = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 19]>
        net (float[batch, 3, 2, 2] input) => (float[pairs, 24] logits)
        { shape = Constant <value_ints = [-1, 24]> ()
          logits = Reshape (input, shape) }""")
    onnx.save(pairs, tmp_path / "engine.onnx")
    with pytest.raises(RadixRTError, match="could not open and run"):
        cold_start(get("onnxruntime"), tmp_path / "engine.onnx")
    assert isinstance(cold_start(get("onnxruntime"), tmp_path / "engine.onnx", batch=2), ColdStart)


def test_cold_start_says_why_it_failed(tmp_path: Path) -> None:
    broken = tmp_path / "engine.onnx"
    broken.write_bytes(b"not an engine")
    with pytest.raises(RadixRTError, match="cannot be opened"):
        cold_start(get("onnxruntime"), broken)


# A machine may be so busy, or stop the process: the clock alone says nothing, and a build that is whole is not lost.
@pytest.mark.parametrize(("limit", "said"), [("PROCESSOR_S", "more than 0 s of processor time"), ("CLOCK_S", "0 s:")])
def test_what_takes_too_long_is_given_up_in_a_sentence(
    limit: str, said: str, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"radixrt.validate.measure.cold_start.{limit}", 0)
    found = cold_start(get("onnxruntime"), engine, threads=1)
    assert isinstance(found, str) and said in found


def test_the_measuring_process_does_not_load_pytorch() -> None:
    code = (
        "import sys, radixrt.validate.measure.cold_start, radixrt.engines.registry, radixrt.engines.cpu.onnxruntime;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_thumbnails_are_small_and_damaged_files_have_none(tmp_path: Path) -> None:
    files = {}
    for i in range(MOST + 5):
        files[f"{i}.png"] = tmp_path / f"{i}.png"
        Image.new("L", (300, 200), i).save(files[f"{i}.png"])
    files["1.png"].write_bytes(files["1.png"].read_bytes()[:60])
    files["2.png"].unlink()
    pictures = thumbnails(files, ["unknown.png", *files])
    assert len(pictures) == MOST
    assert not {"1.png", "2.png", "unknown.png"} & set(pictures)
    with Image.open(io.BytesIO(pictures["0.png"])) as image:
        assert (image.format, image.size) == ("JPEG", (128, 85))
