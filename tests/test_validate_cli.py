"""``radixrt validate``: engines of ours and of others are held against an original, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.validate.schema import Report
from tests.cli_runner import Done, radixrt
from tests.engines.bundles import manifest, tiny_network, write_bundle
from tests.photographs import write_photographs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """The network of :func:`write_bundle` as an ONNX file, with a JSON that says how its bundle reads images."""
    tiny_network(tmp_path / "original.onnx", "batch")
    as_bundled = manifest().preprocessing.model_dump(mode="json")
    (tmp_path / "preprocess.json").write_text(json.dumps(as_bundled))
    return tmp_path / "original.onnx"


def judged(engine: Path, original: Path, photographs: Path, *words: object) -> tuple[Done, Report]:
    """The command's end and its report; the original reads images as the bundle does unless ``words`` say otherwise."""
    folder = original.parent / "report"
    as_bundled = ("--preprocess", original.with_name("preprocess.json")) if "--preprocess" not in words else ()
    given = ("--reference", original, "--data", photographs, "-o", folder)
    done = radixrt("validate", engine, *given, *as_bundled, *words)
    assert done.code in (0, 3), done.err
    return done, Report.read(folder / "report.json")


def test_a_sound_bundle_has_no_finding(original: Path, photographs: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    done, report = judged(tmp_path / "bundle", original, photographs)
    assert done.code == 0
    assert report.parity is not None and report.parity.cosine_min > 0.999999
    assert report.findings == []


# The engine gets its images as its bundle records them, so a wrong mean in the record shows as it would in service.
def test_a_bundle_that_records_another_mean_is_found_and_named(
    original: Path, photographs: Path, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle")
    right = manifest().preprocessing
    (tmp_path / "true.json").write_text(right.model_copy(update={"mean": (0.2, 0.4, 0.3)}).model_dump_json())
    _, report = judged(tmp_path / "bundle", original, photographs, "--preprocess", tmp_path / "true.json")
    assert any("another mean" in finding and "-1.500, +0.000, +0.000" in finding for finding in report.findings)
    assert report.parity is not None and report.parity.cosine_min < 0.99
    assert "another mean" in (tmp_path / "report" / "report.md").read_text()


def test_an_engine_whose_classes_are_swapped_is_found_and_named(
    original: Path, photographs: Path, tmp_path: Path
) -> None:
    model = onnx.load(original)
    order = [0, 3, 2, 1]
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[..., order].copy(), tensor.name))
    onnx.save(model, tmp_path / "swapped.onnx")
    _, report = judged(tmp_path / "swapped.onnx", original, photographs)
    (finding,) = report.findings
    assert "beech and dogwood are swapped" in finding


def test_an_engine_with_two_outputs_is_refused_in_one_sentence(
    original: Path, photographs: Path, tmp_path: Path
) -> None:
    model = onnx.load(original)
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 3]))
    onnx.save(model, tmp_path / "two.onnx")
    done = radixrt("validate", tmp_path / "two.onnx", "--reference", original, "--data", photographs)
    assert done.code == 2 and "2 outputs (logits, flat)" in done.sentence
