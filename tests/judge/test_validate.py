"""``radixrt validate``: engines of ours and of others are held against an original, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.calibration.data.images import ImageList
from radixrt.calibration.data.preparation import Origin
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.source import load_data
from radixrt.validate.measure.findings import UNSTEADY
from radixrt.validate.schema import Report
from tests.cli_runner import Done, radixrt
from tests.engines.bundle.bundles import manifest, tiny_network, write_bundle
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
    # Neither other work on the machine nor a small test set says anything about the bundle.
    beside = {UNSTEADY, "too few images to tell"}
    assert [finding for finding in report.findings if finding.title not in beside] == []
    assert not any(field.origin is Origin.ASSUMED for field in report.preprocessing)


def test_a_bundle_says_how_images_are_prepared_where_nobody_else_does(
    original: Path, photographs: Path, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle")
    given = ("--reference", original, "--data", photographs, "--std", "0.2,0.25,0.3", "-o", tmp_path / "report")
    assert radixrt("validate", tmp_path / "bundle", *given).code == 0
    report = Report.read(tmp_path / "report" / "report.json")
    assert report.parity is not None and report.parity.cosine_min > 0.999999
    origins = {field.name: field.origin for field in report.preprocessing}
    assert (origins["mean"], origins["std"], origins["crop_pct"]) == (Origin.BUNDLE, Origin.OPTION, Origin.BUNDLE)
    assert not any("assumed" in finding.title for finding in report.findings)


# The engine gets its images as its bundle records them, so a wrong mean in the record shows as it would in service.
def test_a_bundle_that_records_another_mean_is_found_and_named(
    original: Path, photographs: Path, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle")
    right = manifest().preprocessing
    (tmp_path / "true.json").write_text(right.model_copy(update={"mean": (0.2, 0.4, 0.3)}).model_dump_json())
    _, report = judged(tmp_path / "bundle", original, photographs, "--preprocess", tmp_path / "true.json")
    assert any(
        "another mean" in finding.text and "-1.500, +0.000, +0.000" in finding.text for finding in report.findings
    )
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
    assert any("beech and dogwood are swapped" in finding.text for finding in report.findings)
    # The last layer's output then lies far from the original's, which is no wrong scale.
    assert not any("a scale there is wrong" in finding.text for finding in report.findings)


def with_embedding(source: Path, result: Path, *, order: int = 1, spoil: float = 1.0) -> Path:
    """The same network with its flat features as one more output, at a place of ``order``, ``spoil`` times as large."""
    model = onnx.load(source)
    (read,) = {node.input[0] for node in model.graph.node if node.output[0] == model.graph.output[0].name}
    model.graph.initializer.append(numpy_helper.from_array(np.float32(spoil), "spoil"))
    model.graph.node.append(helper.make_node("Mul", [read, "spoil"], ["embedding"]))
    model.graph.output.insert(order, helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", None]))
    onnx.save(model, result)
    return result


# One output may be right while another is wrong: each has figures of its own, and the gate takes the worst.
def test_each_output_is_judged_and_named(original: Path, photographs: Path, tmp_path: Path) -> None:
    both = with_embedding(original, tmp_path / "both.onnx")
    (tmp_path / "preprocess.json").rename(both.with_name("preprocess.json"))
    for spoil, code in ((1.0, 0), (-1.0, 3)):
        engine = with_embedding(original, tmp_path / "engine.onnx", order=0, spoil=spoil)
        done, report = judged(engine, both, photographs, "--min-cosine", 0.99)
        assert done.code == code and report.parity is not None
        logits, embedding = report.parity.outputs
        assert (logits.name, embedding.name) == ("logits", "embedding")
        assert logits.cosine_min > 0.999 and embedding.cosine_min == pytest.approx(spoil, abs=1e-3)
    assert "Output embedding, the worst of 2" in next(g.reason for g in report.gates if g.name == "min_cosine")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| embedding |" in text and "embedding" in (tmp_path / "report" / "report.html").read_text()


def test_an_output_without_partner_is_said(original: Path, photographs: Path, tmp_path: Path) -> None:
    engine = with_embedding(original, tmp_path / "engine.onnx")
    done, report = judged(engine, original, photographs)
    assert done.code == 0 and report.parity is not None and len(report.parity.outputs) == 1
    assert "The original lacks the engine's output embedding: it was not compared." in [
        found.text for found in report.findings
    ]


# What other tools make is judged as it is found: as ONNX Runtime quantises it, and as OpenVINO converts it.
def test_a_file_that_onnxruntime_quantised_is_judged_against_its_onnx_original(
    original: Path, photographs: Path, tmp_path: Path
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    images = load_data(str(photographs), manifest().preprocessing).calibration
    _quantize(quantization, original, tmp_path / "foreign.onnx", images)
    done, report = judged(tmp_path / "foreign.onnx", original, photographs, "--max-drop", 100, "--min-cosine", 0.5)
    assert done.code == 0 and report.precision == "as given"
    assert report.parity is not None and 0.9 < report.parity.cosine_mean < 0.9999
    (row,) = report.drift
    assert row.op_type == "Gemm" and 15 < row.sqnr_db < 60, "its layers are found in the original by name"
    assert report.latency is not None and report.latency.rows[-1].name == "ONNX Runtime, original graph"


def test_an_openvino_model_is_judged_against_its_onnx_original(
    original: Path, photographs: Path, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    openvino.save_model(openvino.convert_model(original), tmp_path / "foreign.xml", compress_to_fp16=False)
    done, report = judged(tmp_path / "foreign.xml", original, photographs)
    assert done.code == 0 and report.target == "openvino"
    # Such a file, like a .plan, cannot be looked into: the user must hear it, not wonder why no layer is named.
    assert any("not located: foreign.xml holds no ONNX graph" in note for note in report.notes)
    assert report.size.engine_bytes == sum((tmp_path / f"foreign.{end}").stat().st_size for end in ("xml", "bin"))
    # Also on processors that would compute in BF16 by themselves.
    assert report.parity is not None and report.parity.cosine_min > 0.999999


# The gate on the size must not pass an engine whose weights lie in another file.
def test_weights_outside_the_file_count_as_the_engine_s_size(original: Path, photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    model, file = onnx.load(original), tmp_path / "foreign" / "foreign.onnx"
    onnx.save(model, file, save_as_external_data=True, location="weights.data", size_threshold=0)
    _, report = judged(file, original, photographs)
    weights = file.with_name("weights.data").stat().st_size
    assert weights > 0 and report.size.engine_bytes == file.stat().st_size + weights


@pytest.mark.slow
def test_foreign_engines_are_judged_against_a_sample_network(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    openvino = pytest.importorskip("openvino")
    assert radixrt("export", "senet-nano-elpv", "-o", tmp_path / "float.onnx").code == 0
    preprocess = Preprocess.model_validate({"input_size": (3, 128, 128), "mean": (0.6,), "std": (0.16,)})
    images = load_data("elpv", preprocess).calibration.take(16)
    _quantize(quantization, tmp_path / "float.onnx", tmp_path / "int8.onnx", images)
    openvino.save_model(openvino.convert_model(tmp_path / "float.onnx"), tmp_path / "float.xml")
    for file, cosine in (("int8.onnx", 0.5), ("float.xml", 0.99)):
        words = ("--reference", "senet-nano-elpv", "--test-images", 16, "--max-drop", 30, "-o", tmp_path / file[:3])
        done = radixrt("validate", tmp_path / file, *words)
        assert done.code == 0, done.err
        report = Report.read(tmp_path / file[:3] / "report.json")
        assert report.accuracy is not None and report.accuracy.samples == 16
        assert report.parity is not None and report.parity.cosine_min > cosine


def _quantize(quantization: Any, source: Path, result: Path, images: ImageList) -> None:
    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = images.batches(1)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else dict(batch.inputs)

    quantization.quantize_static(
        source,
        result,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def test_an_earlier_bundle_is_held_against_the_engine(original: Path, photographs: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    write_bundle(tmp_path / "before")
    gates = ("--max-regression-p50", 1000, "--max-regression-drop", 0)
    done, report = judged(tmp_path / "bundle", original, photographs, *gates, "--against", tmp_path / "before")
    assert done.code == 0, done.err
    found = {gate.name: gate for gate in report.gates}
    gate = found["max_regression_p50"]
    assert report.accuracy is not None and report.latency is not None
    # A machine that others keep busy judges no time.
    assert ("Over bundle before" in gate.reason) if not report.latency.unsteady else (gate.value is None)
    assert "bundle before" in {row.name for row in report.latency.rows}
    [since] = report.metrics[0].regressions
    assert (since.bundle, since.drop_points) == (str(tmp_path / "before"), 0.0)
    assert found["max_regression_drop"].value == 0
    done = radixrt("validate", tmp_path / "bundle", "--reference", original, *gates)
    assert (done.code, "needs an earlier bundle" in done.sentence) == (2, True)
