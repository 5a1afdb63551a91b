"""The real Polygraphy, with its ONNX Runtime runner, agrees with our graph and engine, and tells a wrong one apart."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.errors import InputError
from radixrt.validate.measure.parity import parity
from radixrt.validate.schema import OutputParity, Report
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import CLASSES, SIZE, manifest, tiny_network, write_bundle
from tests.photographs import write_photographs
from tests.validate.reports import make_report


def run(command: str, model: Path | None = None) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    words[0:1] = [str(Path(sys.executable).with_name("polygraphy"))]
    words[2] = str(model or words[2])
    return subprocess.run(words, capture_output=True, text=True, check=False)


def bundle_of(network: Path, folder: Path) -> Bundle:
    """A bundle whose engine is a little off its original, and whose report says by how much."""
    images = np.random.default_rng(0).normal(size=(8, 3, SIZE, SIZE)).astype(np.float32)
    with BundleWriter(folder) as writer:
        model = onnx.load(network)
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.003), tensor.name))
        for name in ("deploy.onnx", "engine.onnx"):
            onnx.save(model, writer.folder / name)
        sessions = [onnxruntime.InferenceSession(str(path)) for path in (network, writer.folder / "engine.onnx")]
        held = parity(*(session.run(None, {"input": images})[0] for session in sessions))
        output = OutputParity(
            name="logits",
            shape=[CLASSES],
            cosine_min=held.cosine_min,
            cosine_mean=held.cosine_mean,
            max_abs=held.max_abs,
            mean_abs=held.mean_abs,
            sqnr_db=held.sqnr_db,
        )
        report = make_report().model_copy(update={"parity": held.model_copy(update={"outputs": [output]})})
        report.write(writer.folder / "report.json")
        made_of = manifest().model
        identity = made_of.model_copy(update={"source": str(network), "weights": "checkpoint"})
        return writer.finish(manifest(batch=(1, 3)).model_copy(update={"model": identity}))


@pytest.mark.slow
def test_polygraphy_agrees_and_tells_a_wrong_engine_apart(tmp_path: Path) -> None:
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    tiny_network(tmp_path / "tiny.onnx", "batch")
    (tmp_path / "photos").mkdir()
    data = write_photographs(tmp_path / "photos")
    made = bundle_of(tmp_path / "tiny.onnx", tmp_path / "bundle")
    done = radixrt("bundle", made.path, "--polygraphy", tmp_path / "second", "--data", data)
    assert done.code == 0, done.err
    script = (tmp_path / "second" / "compare.sh").read_text()
    commands = [line for line in script.splitlines() if line.startswith("polygraphy")]
    assert len(commands) == 2 and all(command in done.out for command in commands)
    for command in commands:
        agreed = run(command)
        assert agreed.returncode == 0 and "PASSED" in agreed.stdout, agreed.stdout[-2000:] + agreed.stderr
    # The same network with two classes swapped, which most images would not notice.
    wrong = onnx.load(made.engine)
    bias = next(t for t in wrong.graph.initializer if numpy_helper.to_array(t).shape == (4,))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias)[[1, 0, 2, 3]].copy(), bias.name))
    onnx.save(wrong, tmp_path / "wrong.onnx")
    refused = run(commands[1], tmp_path / "wrong.onnx")
    assert refused.returncode != 0 and "FAILED" in refused.stdout


def test_a_bundle_without_parity_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("polygraphy", reason="polygraphy is not installed")
    from radixrt.judge.polygraphy import write_second_opinion
    from radixrt.options import DataOptions
    from radixrt.progress import Stages

    bundle = write_bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"report\.json"):
        write_second_opinion(bundle, tmp_path / "out", DataOptions(), None, Stages())


@pytest.mark.slow
# From there to here: what Polygraphy ran with, and what came out, judges our engine as the original would.
def test_saved_inputs_are_data_and_saved_results_a_reference(tmp_path: Path) -> None:
    comparator = pytest.importorskip("polygraphy.comparator", reason="polygraphy is not installed")
    from polygraphy.json import load_json

    network, inputs, results = (tmp_path / name for name in ("tiny.onnx", "in.json", "out.json"))
    tiny_network(network, "batch")
    shapes = f"--input-shapes input:[2,3,{SIZE},{SIZE}] --iterations 3"
    done = run(f"polygraphy run {network} --onnxrt {shapes} --save-inputs {inputs} --save-outputs {results}")
    assert done.returncode == 0, done.stderr
    made = bundle_of(network, tmp_path / "bundle")
    judged = radixrt(
        "validate", made.path, "--reference", results, "--data", inputs, "-o", tmp_path / "out", "--min-cosine", 0.999
    )
    assert judged.code == 0, judged.err
    found = Report.read(tmp_path / "out" / "report.json")
    feeds = load_json(str(inputs))
    images = np.concatenate([feed["input"] for feed in feeds])
    pair = [onnxruntime.InferenceSession(str(file)).run(None, {"input": images})[0] for file in (network, made.engine)]
    assert found.parity is not None and found.parity.samples == 6
    assert found.parity.max_abs == pytest.approx(float(np.abs(pair[0] - pair[1]).max()), rel=1e-5) and pair[0].any()
    # Answers that are another network's are told apart, and so are inputs that nobody answered.
    tables = radixrt("calibrate", network, "-o", tmp_path / "t.json", "--data", inputs)
    assert tables.code == 0, tables.err
    text = results.read_text()
    other = comparator.RunResults()
    answers = [comparator.IterationResult(outputs={"logits": -array}) for array in np.split(pair[0], 3)]
    other.append(("other", answers))
    other.save(str(tmp_path / "other.json"))
    given = ("--data", inputs, "--min-cosine", 0.999, "-o", tmp_path / "no")
    refused = radixrt("validate", made.path, "--reference", tmp_path / "other.json", *given)
    assert refused.code == 3, refused.err
    (tmp_path / "photos").mkdir()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    for reference, data, said in (
        (tmp_path / "cut.json", inputs, "cut.json is not what Polygraphy saves"),
        (results, write_photographs(tmp_path / "photos"), "name them with --data, as --save-inputs wrote"),
        (tmp_path / "none.json", inputs, "there are no results at"),
    ):
        refused = radixrt("validate", made.path, "--reference", reference, "--data", data, "-o", tmp_path / "no")
        assert refused.code == 2 and said in refused.sentence, refused.err
