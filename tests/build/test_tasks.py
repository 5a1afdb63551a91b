"""Networks that name no classes, end to end: nothing of what they put out is taken for logits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

import radixrt as rt
from radixrt.api import load
from radixrt.errors import InputError
from radixrt.validate.schema import Report
from tests.cli_runner import radixrt
from tests.networks import dense
from tests.networks.dense import embedding, pyramid, unet
from tests.networks.onnx_files import quantised, se_net
from tests.photographs import LABELS, write_photographs

QUICK = {"latency_rounds": 3, "grouped_conv": "keep", "calibration_images": 16, "test_images": 8}
NETWORKS = {"unet": unet, "pyramid": pyramid, "embedding": embedding}
SHAPES = {
    "unet": {"output": [4, 32, 32]},
    "pyramid": {"output_0": [16, 16, 16], "output_1": [24, 8, 8]},
    "embedding": {"logits": [12]},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def flat(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same photographs, of which nobody says what they show."""
    folder = tmp_path_factory.mktemp("flat")
    for picture in sorted(data.rglob("*.png")):
        shutil.copy(picture, folder / f"{picture.parent.name}-{picture.name}")
    return folder


def compiled(module: nn.Module, data: Path, folder: Path, **more: object) -> Report:
    (result,) = rt.compile(module, data=data, input_size=(3, 32, 32), output=folder, **QUICK, **more)  # type: ignore[arg-type]
    return result.report


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("precision", "target", "floor"),
    [("fp32", "onnxruntime", 90), ("int8", "onnxruntime", 15), ("fp32", "openvino", 90)],
)
def test_every_output_is_judged_by_parity_alone(
    name: str, precision: str, target: str, floor: float, flat: Path, tmp_path: Path
) -> None:
    report = compiled(NETWORKS[name](), flat, tmp_path / "b", precision=precision, target=target)
    assert report.task == "tensors" and report.passed and not report.metrics and not report.gates
    parity = report.parity
    assert parity is not None and {output.name: output.shape for output in parity.outputs} == SHAPES[name]
    assert all(output.sqnr_db > floor and output.agreement is None for output in parity.outputs)
    assert (parity.top1_agreement, parity.softmax_kl) == (None, None)
    assert len(report.rewrite.attention_blocks) >= 2 and not report.rewrite.refused
    if precision == "int8":
        assert report.quantization is not None and report.quantization.quantized >= 1
        assert report.quantization.recovery
    words = (tmp_path / "b" / "report.md").read_text() + (tmp_path / "b" / "report.json").read_text()
    assert "The task is tensors, because the main output is" in words
    for word in ("top-1", "softmax", "the logits", "Same answer"):
        assert word not in (tmp_path / "b" / "report.md").read_text()


@pytest.mark.slow
def test_a_bundle_gives_arrays_by_name(data: Path, tmp_path: Path) -> None:
    report = compiled(pyramid(), data, tmp_path / "b", precision="int8", target="onnxruntime")
    folder, picture = tmp_path / "b", data / LABELS[0] / "0.png"
    assert report.quantization is not None
    assert json.loads((folder / "manifest.json").read_text())["task"] == "tensors"
    with load(folder) as engine:
        (one,) = engine.predict(picture)
        found = one.outputs
        with pytest.raises(InputError, match="names no classes"):
            next(engine.classify(picture))
    assert {name: list(array.shape[1:]) for name, array in found.items()} == SHAPES["pyramid"]
    done = radixrt("run", folder, picture)
    assert done.code == 0 and "output_1" in done.out and "probability" not in done.out
    command = [sys.executable, folder / "run.py", "--json", "--output", tmp_path / "o.npz", picture, picture]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    (first, _) = json.loads(ran.stdout)["results"]
    assert set(first["outputs"]) == set(SHAPES["pyramid"]) and "top5" not in first
    with np.load(tmp_path / "o.npz") as saved:
        for name, array in found.items():
            np.testing.assert_allclose(saved[name][:1], array, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"made from a module in memory \(Pyramid\), which no bundle keeps"):
        rt.validate(folder, data=data)
    judged = rt.validate(
        folder, reference=pyramid(), data=data, input_size=(3, 32, 32), latency_rounds=3, test_images=8
    )
    assert judged.task == "tensors" and judged.parity is not None and len(judged.parity.outputs) == 2


@pytest.mark.slow
def test_what_upsamples_stays_in_float_and_the_report_says_so(data: Path, tmp_path: Path) -> None:
    report = compiled(unet(), data, tmp_path / "b", precision="int8", target="onnxruntime")
    assert report.quantization is not None
    said = " ".join(report.quantization.kept_float)
    assert "ONNX Runtime has no INT8 kernel for a transposed convolution" in said


@pytest.mark.slow
def test_a_limit_that_no_figure_can_meet_is_refused_before_anything_is_built(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_drop judges a task's metric, and the task here is tensors"):
        compiled(unet(), data, tmp_path / "b", precision="fp32", target="onnxruntime", max_drop=1.0)
    with pytest.raises(InputError, match="this network cannot classify: its main output is output"):
        compiled(unet(), data, tmp_path / "b", precision="fp32", target="onnxruntime", task="classify")
    with pytest.raises(InputError, match="there is no task 'guess': choose one of classify, multilabel"):
        compiled(unet(), data, tmp_path / "b", precision="fp32", target="onnxruntime", task="guess")


@pytest.mark.slow
def test_the_smallest_cosine_of_all_outputs_is_a_gate(data: Path, tmp_path: Path) -> None:
    report = compiled(pyramid(), data, tmp_path / "b", precision="fp32", target="onnxruntime", min_cosine=0.999)
    (gate,) = report.gates
    assert gate.passed and "the worst of 2" in gate.reason


@pytest.mark.slow
def test_a_network_of_masks_is_judged_shown_and_answers_by_its_task(data: Path, tmp_path: Path) -> None:
    for index, picture in enumerate(sorted(data.rglob("*.png"))):
        (tmp_path / "d" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / "masks").mkdir(exist_ok=True)
        shutil.copy(picture, tmp_path / "d" / "images" / f"{index}.png")
        classes = np.random.default_rng(index).integers(0, 4, (48, 48)).astype(np.uint8)
        Image.fromarray(classes).save(tmp_path / "d" / "masks" / f"{index}.png")
    # Without a bias that decides by itself, the answers change from pixel to pixel, and INT8 moves some of them.
    weights = {name: value * (not name.startswith("head.bias")) for name, value in unet().state_dict().items()}
    torch.save(weights, tmp_path / "weights.pt")
    (result,) = rt.compile(
        f"{Path(dense.__file__)}:unet",
        checkpoint=tmp_path / "weights.pt",
        data=tmp_path / "d",
        input_size=(3, 32, 32),
        output=tmp_path / "b",
        precision="int8",
        target="onnxruntime",
        max_drop=50,
        gate="miou>=0.01",
        **QUICK,  # type: ignore[arg-type]
    )
    report = result.report
    assert report.task == "segment" and "labelled with masks" in report.task_reason
    assert [metric.name for metric in report.metrics] == ["miou", "pixel_accuracy", "agreement"]
    assert {"max_drop", "miou"} <= {gate.name for gate in report.gates if gate.passed and gate.value is not None}
    assert report.quantization is not None and "points of mIoU lost" in " ".join(report.quantization.recovery)
    page = (tmp_path / "b" / "report.html").read_text()
    assert page.index('<section id="examples">') < page.index('<section id="gates">') and "difference" in page
    picture = tmp_path / "d" / "images" / "0.png"
    with load(tmp_path / "b") as engine:
        (one,) = engine.predict(picture)
    assert one.answer["mask"].shape == (32, 32) and sum(row["share"] for row in one.answer["classes"]) == pytest.approx(
        1
    )
    command = [sys.executable, tmp_path / "b" / "run.py", "--json", picture]
    (ran,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["results"]
    assert ran["classes"] == one.answer["classes"] and "mask" not in ran


@pytest.mark.slow
def test_a_quantised_file_keeps_its_own_pairs_where_asked(flat: Path, tmp_path: Path) -> None:
    onnx.save(quantised(se_net(), tmp_path), file := tmp_path / "q.onnx")
    more = {"data": flat, "target": "onnxruntime", "output": tmp_path / "b", "own_pairs": "keep"}
    with pytest.raises(InputError, match="own pairs are INT8, and fp32 was asked for"):
        rt.compile(file, precision="fp32", **more)
    (result,) = rt.compile(file, precision="int8", **QUICK, **more)
    assert result.report.calibration is None and result.report.quantization is not None
    assert any("own pairs are kept" in text for text in result.report.quantization.recovery)
    assert result.report.parity is not None and result.report.parity.cosine_min > 0.9
    assert 'own_pairs = "keep"' in (tmp_path / "b" / "recipe.toml").read_text()
