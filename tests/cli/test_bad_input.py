"""Bad input gets one sentence and exit code 2, and what stood there before stands there still."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.cli_runner import radixrt

SAMPLE = "senet-nano-elpv"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def refuse(output: Path, *words: object) -> str:
    """Runs ``radixrt engine`` where an earlier file lies in the way of nothing, and returns the one sentence."""
    done = radixrt("engine", "--target", "onnxruntime", "--output", output, *words)
    assert done.code == 2, (done.code, done.err)
    assert "Traceback" not in done.err
    assert not output.exists() and not list(output.parent.glob(f".{output.name}*"))
    return done.sentence


def test_unknown_model_offers_the_nearest_names(tmp_path: Path) -> None:
    assert "resnest50" in refuse(tmp_path / "b", "--model", "resnest5O")


@pytest.mark.parametrize(
    "words",
    [("--precision", "int4"), ("--batch", "0"), ("--batch", "8..1"), ("--method", "best"), ("--grouped-conv", "wide")],
)
def test_unknown_words_are_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    assert words[1] in refuse(tmp_path / "b", "--model", SAMPLE, *words)


def test_a_python_file_without_a_factory_is_asked_for_one(tmp_path: Path) -> None:
    assert "mynet.py:build" in refuse(tmp_path / "b", "--model", "mynet.py")


def test_unknown_target_offers_the_known_ones(tmp_path: Path) -> None:
    done = radixrt("engine", "--model", SAMPLE, "--target", "onnxrt", "--output", tmp_path / "b")
    assert done.code == 2 and "onnxruntime" in done.sentence


def test_targets_one_by_one_are_all_taken(tmp_path: Path) -> None:
    words = ("--target", "nowhere", "--target", "onnxruntime")
    done = radixrt("engine", "--model", SAMPLE, *words, "--output", tmp_path / "b")
    assert done.code == 2 and "nowhere" in done.sentence


class TestCheckpoint:
    def test_not_there(self, tmp_path: Path) -> None:
        assert "no.pth" in refuse(tmp_path / "b", "--model", SAMPLE, "--checkpoint", tmp_path / "no.pth")

    def test_truncated(self, tmp_path: Path) -> None:
        import torch

        whole = io.BytesIO()
        torch.save({"state_dict": {"weight": torch.zeros(100, 100)}}, whole)
        (tmp_path / "half.pth").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
        assert "half.pth" in refuse(tmp_path / "b", "--model", SAMPLE, "--checkpoint", tmp_path / "half.pth")

    def test_of_another_architecture_lists_the_keys(self, tmp_path: Path) -> None:
        import torch

        torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
        sentence = refuse(tmp_path / "b", "--model", SAMPLE, "--checkpoint", tmp_path / "other.pth")
        assert "some.weight" in sentence and "conv1" in sentence

    def test_with_code_in_it_is_not_run(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(tmp_path / "owned"),)

        (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"state_dict": Bomb()}))
        assert "bomb.pth" in refuse(tmp_path / "b", "--model", SAMPLE, "--checkpoint", tmp_path / "bomb.pth")
        assert not (tmp_path / "owned").exists()

    def test_nan_in_a_weight_names_the_tensor(self, tmp_path: Path) -> None:
        import torch

        from radixrt.export.samples.sample import SAMPLES

        sample = next(s for s in SAMPLES if s.name == SAMPLE)
        state = sample.build(4).state_dict()
        name = next(key for key in state if key.endswith("conv1.weight"))
        state[name][0] = float("nan")
        torch.save(state, tmp_path / "nan.pth")
        assert name in refuse(tmp_path / "b", "--model", SAMPLE, "--checkpoint", tmp_path / "nan.pth")


class TestImages:
    def test_empty_folder(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "empty" in refuse(tmp_path / "b", "--model", SAMPLE, "--data", tmp_path / "empty")

    def test_no_folder(self, tmp_path: Path) -> None:
        assert "nowhere" in refuse(tmp_path / "b", "--model", SAMPLE, "--data", tmp_path / "nowhere")

    def test_too_many_corrupt_ones(self, tmp_path: Path, photographs: Path) -> None:
        for index in range(4):
            (photographs / f"bad{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
        assert "bad" in refuse(tmp_path / "b", "--model", SAMPLE, "--data", photographs)


class TestOnnx:
    def test_not_one(self, tmp_path: Path) -> None:
        (tmp_path / "text.onnx").write_text("hello")
        assert "text.onnx" in refuse(tmp_path / "b", "--model", tmp_path / "text.onnx")

    def test_unsupported_types(self, tmp_path: Path) -> None:
        shape = [1, 3, 8, 8]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.STRING, shape)],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.STRING, shape)],
        )
        onnx.save(onnx.helper.make_model(graph), tmp_path / "strings.onnx")
        assert "x" in refuse(tmp_path / "b", "--model", tmp_path / "strings.onnx")


class TestOutput:
    def test_a_file_in_the_way_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "b").write_text("mine")
        done = radixrt("engine", "--model", SAMPLE, "--target", "onnxruntime", "--output", tmp_path / "b")
        assert done.code == 2 and (tmp_path / "b").read_text() == "mine"

    def test_a_folder_that_is_no_bundle_is_kept(self, tmp_path: Path) -> None:
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "thesis.txt").write_text("mine")
        done = radixrt("engine", "--model", SAMPLE, "--target", "onnxruntime", "--output", tmp_path / "b")
        assert done.code == 2 and (tmp_path / "b" / "thesis.txt").read_text() == "mine"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_not_writable(self, tmp_path: Path) -> None:
        (tmp_path / "closed").mkdir(mode=0o500)
        refuse(tmp_path / "closed" / "b", "--model", SAMPLE)

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        done = radixrt("engine", "--model", SAMPLE, "--target", "onnxruntime", "--output", tmp_path / "file" / "b")
        assert done.code == 2 and (tmp_path / "file").read_text() == "mine"

    # Minutes of work must not end at a file that could never be written.
    def test_gates_below_a_file_are_refused_before_anything_starts(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        sentence = refuse(tmp_path / "b", "--model", SAMPLE, "--junit", tmp_path / "file" / "gates.xml")
        assert "gates.xml" in sentence and "[1/" not in sentence

    def test_a_page_in_no_folder_is_refused(self, tmp_path: Path) -> None:
        from tests.validate.reports import make_report

        make_report().write(tmp_path / "report.json")
        done = radixrt("compare", tmp_path / "report.json", "-o", tmp_path / "no" / "page.html")
        assert done.code == 2 and "page.html" in done.sentence
        # What looks like markup is a part of a name, or of a layer's.
        named = tmp_path / "[red].html"
        done = radixrt("compare", tmp_path / "report.json", "-o", named)
        assert done.code == 0 and str(named) in done.out


@pytest.mark.parametrize(
    "words", [("--test-images", "0"), ("--calibration-images", "-1"), ("--threads", "-2"), ("--latency-rounds", "0")]
)
def test_counts_that_are_none_are_refused(tmp_path: Path, words: tuple[str, str]) -> None:
    assert words[0] in refuse(tmp_path / "b", "--model", SAMPLE, *words)


# TensorRT calls what it fused {ForeignNode[/fc/Gemm]}, and a photograph may be called what its owner likes.
def test_layers_and_names_in_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from radixrt.cli.engine import print_candidates
    from radixrt.validate.schema import Candidate

    print_candidates([Candidate(target="tensorrt", verdict="not built", reason="{ForeignNode[/fc/Gemm]} :rocket:")])
    assert "[/fc/Gemm]} :rocket:" in capsys.readouterr().out
