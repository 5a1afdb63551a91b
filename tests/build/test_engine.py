"""The main job, end to end, through the real command and the Python calls, on a sample network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import radixrt as rt
from radixrt.errors import GateError, InputError, UnavailableError
from radixrt.validate.gates import GateLimits
from radixrt.validate.measure.latency import FLOAT32, in_float32
from radixrt.validate.schema import Report
from tests.cli_runner import radixrt

SAMPLE = "senet-nano-elpv"
# So many that one image whose answer changes is less than the point that the gate allows.
QUICK = ("--test-images", "104", "--calibration-images", "32", "--latency-rounds", "3", "--grouped-conv", "keep")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("engine") / "bundle"
    done = radixrt("engine", "--model", SAMPLE, "--target", "onnxruntime", "--output", path, *QUICK)
    assert done.code == 0, done.err
    return path


@pytest.mark.slow
def test_leaves_a_bundle_with_everything_the_design_names(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    promised = {"manifest.json", "deploy.onnx", "engine.onnx", "calibration.json", "report.json", "report.md"}
    assert promised | {"report.html", "run.py"} <= names
    report = Report.read(bundle / "report.json")
    assert report.passed and report.executed and report.model.weights == "checkpoint"
    assert report.accuracy is not None and report.accuracy.samples == 104
    assert report.parity is not None and report.parity.top1_agreement > 0.9
    assert report.calibration is not None and report.calibration.images == 32
    assert {block.kind for block in report.rewrite.attention_blocks} == {"se"} and not report.rewrite.refused


@pytest.mark.slow
def test_the_engine_takes_unsigned_activations_which_x86_multiplies_fast(bundle: Path) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(bundle / "engine.onnx").graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zeros = [constants[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(zeros) > 10 and {str(zero.dtype) for zero in zeros} == {"uint8"}


@pytest.mark.slow
def test_the_recipe_of_a_bundle_makes_it_again_from_what_the_first_run_left(bundle: Path) -> None:
    before, files = Report.read(bundle / "report.json"), {path.name: path.read_bytes() for path in bundle.iterdir()}
    done = radixrt("engine", bundle / "recipe.toml", "--output", bundle)
    after = Report.read(bundle / "report.json")
    assert done.code == 0
    told = {path.name for path in bundle.iterdir() if path.read_bytes() != files[path.name]}
    assert told == {"manifest.json", "report.json", "report.md", "report.html"}, "only times and dates are new"
    assert after.parity == before.parity and after.calibration is not None and after.calibration.reused
    assert after.latency is not None and before.latency is not None
    assert after.latency.rows[0].samples_ms != before.latency.rows[0].samples_ms, "times are those of this run"
    steps = {"capture", "rewrite", "calibration", "onnxruntime engine", "onnxruntime answers"}
    assert steps <= set(after.reused) and "onnxruntime engine" not in before.reused
    assert "Taken from an earlier run: capture" in done.out


@pytest.mark.slow
def test_a_missed_gate_is_exit_3_and_keeps_the_bundle(bundle: Path, tmp_path: Path) -> None:
    words = ("--model", SAMPLE, "--target", "onnxruntime", "--output", tmp_path / "slow", *QUICK)
    # Not a gate on times: those are not judged where other tests keep the machine busy.
    done = radixrt("engine", *words, "--max-engine-bytes", "10", "--quiet", "--json", "-")
    assert done.code == 3 and "max_engine_bytes" in done.sentence
    told = json.loads(done.out)
    assert told["exit_code"] == 3 and told["error"] in done.err and "[1]" not in done.err
    (engine,) = told["engines"]
    assert (
        engine["paths"]["folder"] == str(tmp_path / "slow") and f"{tmp_path / 'slow'}  {engine['verdict']}" in done.err
    )
    assert {gate["name"]: gate["state"] for gate in engine["gates"]}["max_engine_bytes"] == "failed"
    report = json.loads((tmp_path / "slow" / "report.json").read_text())
    assert not report["passed"] and report["schema"] == 2


# What decides is a measurement of one run, so the report must show all that took part in it.
@pytest.mark.slow
def test_fastest_keeps_the_quickest_that_passes_and_shows_the_others(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    words = ("engine", "--model", SAMPLE, "--target", "fastest", "--output", tmp_path / "quick", *QUICK)
    done = radixrt(*words)
    assert done.code == 0, done.err
    report = Report.read(tmp_path / "quick" / "report.json")
    tried = {candidate.target: candidate for candidate in report.candidates}
    timed = [c for c in report.candidates if c.p50_ms is not None]
    assert {"onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"} == set(tried) and len(timed) >= 2
    (chosen,) = [c for c in timed if c.verdict == "chosen"]
    assert (chosen.target, chosen.reason) == (report.target, "")
    assert chosen.p50_ms == min(c.p50_ms or 0 for c in timed if c.verdict in ("chosen", "passed"))
    assert all(c.reason for c in report.candidates if c is not chosen)
    # The same rows once more: what the table says was measured beside the others, under their names.
    assert report.latency is not None and report.latency.rows[0].p50_ms == chosen.p50_ms
    names = {row.name for row in report.latency.rows}
    assert {c.target for c in timed if c is not chosen} <= names
    # What INT8 is worth on this machine is asked of the winner and of every other alike.
    assert FLOAT32 in names and {in_float32(c.target) for c in timed if c is not chosen} <= names
    assert rt.load(tmp_path / "quick").bundle.manifest.target == report.target
    for target in tried:
        assert target in done.out and target in (tmp_path / "quick" / "report.html").read_text()

    before = (tmp_path / "quick" / "manifest.json").read_bytes()
    done = radixrt(*words, "--max-engine-bytes", "10", "--junit", tmp_path / "gates.xml")
    assert done.code == 3 and "no target keeps the gates" in done.sentence and "failed" in done.out
    assert (tmp_path / "quick" / "manifest.json").read_bytes() == before
    assert (tmp_path / "gates.xml").read_text().count("<failure") == len(timed)


def test_auto_lets_every_precision_race_for_one_bundle(tmp_path: Path) -> None:
    from radixrt.build.pipeline import entrants
    from radixrt.build.target import Job
    from radixrt.engines.registry import get
    from radixrt.options import CompileOptions
    from radixrt.request import EngineRequest

    request = EngineRequest.of(CompileOptions(precision="auto", target="onnxruntime", max_drop=1.0))
    target = get("onnxruntime")
    path = request.bundle_path(target.name, 1)
    found = entrants(Job(request, None), [target], {target.name: path})  # type: ignore[arg-type]
    assert [(e.name, e.path) for e in found] == [("onnxruntime fp32", path), ("onnxruntime int8", path)]
    assert [e.job.request.precision.value for e in found] == ["fp32", "int8"]
    assert path.name.endswith("-auto-onnxruntime")
    assert all(e.job.request.gates == request.gates for e in found)


@pytest.mark.parametrize(("int8", "said"), [("passed", "takes 3 ms"), ("failed", "max_drop")])
def test_a_race_that_int8_loses_says_so(int8: Literal["passed", "failed"], said: str) -> None:
    from radixrt.build.race import slower_int8
    from radixrt.validate.schema import Candidate

    won = Candidate(target="openvino", precision="bf16", verdict="chosen", p50_ms=2.0)
    lost = Candidate(target="onnxruntime", precision="int8", verdict=int8, p50_ms=3.0, reason="max_drop")
    (found,) = slower_int8([won, lost])
    assert found.severity == "remark" and "bf16 on openvino takes 2 ms" in found.text and said in found.text
    assert slower_int8([won.model_copy(update={"precision": "int8"}), lost]) == []
    assert slower_int8([won]) == []


@pytest.mark.parametrize("name", ["auto", "fastest"])
def test_bf16_goes_to_what_computes_in_it(name: str) -> None:
    from radixrt.build.pipeline import choose_targets
    from radixrt.engines.base import BuildOptions
    from radixrt.engines.registry import get
    from radixrt.export.spec import Precision

    if get("openvino").lacks_bf16():
        with pytest.raises(UnavailableError, match="bf16 is not available"):
            choose_targets((name,), BuildOptions(Precision.BF16))
    else:
        assert choose_targets((name,), BuildOptions(Precision.BF16)) == (get("openvino"),)


def test_fastest_stands_alone() -> None:
    from radixrt.build.pipeline import choose_targets
    from radixrt.engines.base import BuildOptions
    from radixrt.export.spec import Precision

    with pytest.raises(InputError, match="leave the others out"):
        choose_targets(("fastest", "onnxruntime"), BuildOptions(Precision.INT8))


@pytest.mark.slow
def test_classifies_from_python_from_the_command_and_from_run_py_alike(bundle: Path) -> None:
    from radixrt.calibration.data.sets.elpv import read_elpv

    photograph = read_elpv().test[0].path
    with rt.load(bundle) as engine:
        answers = list(engine.classify(photograph, top=4))
        assert engine(np.zeros((3, 3, 128, 128), np.float32)).shape == (3, 4)
    assert sum(answer.probability for answer in answers) == pytest.approx(1, abs=1e-6)
    done = radixrt("run", bundle, photograph)
    assert done.code == 0 and answers[0].label in done.out
    alone = [sys.executable, str(bundle / "run.py"), str(photograph)]
    said = subprocess.run(alone, capture_output=True, text=True, check=True).stdout
    assert said.index(answers[0].label) < said.index(answers[1].label)


@pytest.mark.slow
def test_a_changed_byte_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    data = bytearray((copy / "engine.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "engine.onnx").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"engine\.onnx"):
        rt.load(copy)


@pytest.mark.slow
def test_validate_judges_a_bundle_and_a_plain_onnx_file(bundle: Path, tmp_path: Path) -> None:
    done = radixrt("validate", bundle, "--test-images", "16", "-o", tmp_path / "v", "--junit", tmp_path / "gates.xml")
    assert done.code == 0, done.err
    assert Report.read(tmp_path / "v" / "report.json").accuracy is not None
    assert "max_drop" in (tmp_path / "gates.xml").read_text()
    report = rt.validate(bundle / "engine.onnx", reference=SAMPLE, test_images=16)
    assert report.parity is not None and report.parity.samples == 16


@pytest.mark.slow
def test_compiles_a_module_in_memory_for_a_dynamic_batch_on_a_folder_of_photographs(tmp_path: Path) -> None:
    from PIL import Image

    from radixrt.export.samples.sample import SAMPLES

    random = np.random.default_rng(0)
    for label in ("good", "bad"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(20):
            pixels = random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{index}.png")
    module = SAMPLES[0].build(2)
    with pytest.raises(GateError):
        rt.compile(
            module,
            target="onnxruntime",
            data=tmp_path / "data",
            input_size=(3, 64, 64),
            batch="1..4",
            batch_sweep=(1, 3),
            output=tmp_path / "b",
            gates=GateLimits(max_engine_bytes=10),
        )
    with rt.load(tmp_path / "b") as engine:
        logits = engine(np.zeros((7, 3, 64, 64), np.float32))
    assert logits.shape == (7, 2)
    report = Report.read(tmp_path / "b" / "report.json")
    assert report.latency is not None and {row.batch for row in report.latency.rows} == {1, 3}
    # What it is to be timed against is looked for before anything long starts.
    with pytest.raises(InputError, match="absent"):
        rt.compile(module, data=tmp_path / "data", against=[tmp_path / "absent"])


@pytest.mark.slow
def test_stages_one_by_one_make_the_same_kind_of_engine(tmp_path: Path) -> None:
    steps = (
        ("export", SAMPLE, "-o", tmp_path / "a.onnx"),
        ("rewrite", tmp_path / "a.onnx", "-o", tmp_path / "b.onnx", "--report", tmp_path / "r.json"),
        ("calibrate", tmp_path / "b.onnx", "-o", tmp_path / "t.json", "--data", "elpv", "--calibration-images", "16"),
        ("quantize", tmp_path / "b.onnx", "-o", tmp_path / "c.onnx", "--table", tmp_path / "t.json"),
        ("build", tmp_path / "c.onnx", "-o", tmp_path / "e", "--precision", "int8"),
        (
            "validate",
            tmp_path / "e" / "engine.onnx",
            "--reference",
            SAMPLE,
            "--test-images",
            "16",
            "--max-drop",
            "20",
            "-o",
            tmp_path / "v",
        ),
    )
    for step in steps:
        done = radixrt(*step)
        assert done.code == 0, (step[0], done.err)
    parity = Report.read(tmp_path / "v" / "report.json").parity
    assert parity is not None and parity.top1_agreement > 0.8
