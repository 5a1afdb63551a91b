"""A network with several outputs: compiled, judged and served with all of them, the logits first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from scipy.special import expit, log_softmax, softmax

from radixrt.api import load
from radixrt.engines.runners import in_batches
from radixrt.errors import InputError
from radixrt.export.graph.output_kind import rowless
from radixrt.export.spec import BatchSpec
from radixrt.judge.outputs import match_outputs, one_at_a_time, with_samples
from radixrt.validate.schema import Report
from radixrt.validate.tasks.choose import choose, interface_of
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs

LOGITS, MAP = np.zeros((2, 4)), np.zeros((2, 3, 5, 5))


def two_outputs(path: Path) -> Path:
    """The tiny network with its pooled map as the first output, before the logits."""
    tiny_network(path, "batch")
    model = onnx.load(path)
    model.graph.output.insert(0, helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["batch", 3, 1, 1]))
    onnx.save(model, path)
    return path


def test_what_one_sample_gives_need_not_have_rows() -> None:
    def run(feed: Any) -> dict[str, np.ndarray]:
        return {"boxes": np.zeros((3, 4)), "level": np.float32(1) * np.ones(())}

    runner = in_batches(run, BatchSpec(1, 1))
    assert runner({"x": np.zeros((1, 3))})["level"].shape == ()
    with pytest.raises(InputError, match=r"takes 1 at a time, and its output boxes \(3, 4\) has no row for each"):
        runner({"x": np.zeros((2, 3))})
    graph = ir.Graph(
        [ir.Input("x", ir.Shape([1, 3]))],
        [ir.Input("boxes", ir.Shape(["K", 4])), ir.Input("y", ir.Shape([1, 2]))],
        nodes=[],
    )
    assert rowless(graph) == {"boxes"} and one_at_a_time(graph)
    # Boxes of one image are no classes of many.
    assert choose(None, interface_of(graph)).task.name == "tensors"
    given = {"boxes": np.zeros((3, 4)), "y": np.zeros((1, 2)), "steps": np.zeros((7, 1, 5))}
    shapes = {name: array.shape for name, array in with_samples(given, {"boxes", "steps"}).items()}
    assert shapes == {"boxes": (1, 3, 4), "y": (1, 2), "steps": (1, 7, 5)}


@pytest.mark.slow
def test_from_the_file_to_the_served_bundle(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_photographs(tmp_path / "data")
    network = two_outputs(tmp_path / "two.onnx")
    words = ("--model", network, "--data", data, "--input-size", "3,32,32", "--precision", "int8", "--batch", "1..4")
    done = radixrt(
        "engine",
        *words,
        "--target",
        "onnxruntime,openvino",
        "--no-recovery",
        "--latency-rounds",
        3,
        "-o",
        tmp_path / "bundles",
    )
    assert done.code in (0, 3), done.err
    for target in ("onnxruntime", "openvino"):
        folder = tmp_path / "bundles" / f"two-int8-{target}"
        parity = Report.read(folder / "report.json").parity
        assert parity is not None and [output.name for output in parity.outputs] == ["logits", "pooled"]
        assert [output.shape for output in parity.outputs] == [[4], [3, 1, 1]]
        named = json.loads((folder / "manifest.json").read_text())["outputs"]
        assert [tensor["name"] for tensor in named] == ["logits", "pooled"]
        images = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
        with load(folder) as engine:
            np.testing.assert_array_equal(engine(images), engine.outputs(images)["logits"])
            # So small a network has nothing to quantise: OpenVINO may compute it in BF16.
            pooled = engine.outputs(images)["pooled"]
            np.testing.assert_allclose(pooled, images.mean((2, 3), keepdims=True), atol=0.03)
    assert "pooled (the" not in (folder / "report.md").read_text()
    assert "was taken for the logits" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("end", "said"),
    [(softmax, "a softmax"), (log_softmax, "a log-softmax"), (lambda rows, axis: expit(rows), "a sigmoid")],
)
def test_networks_of_which_one_leaves_its_end_to_the_user_are_not_compared(end: Any, said: str) -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(8, 5)) * 3
    noisy = logits + random.normal(size=logits.shape) * 0.2
    with pytest.raises(InputError, match=f"the engine ends in {said} and the original does not"):
        match_outputs({"y": logits}, {"y": end(noisy, axis=1)})
    with pytest.raises(InputError, match=f"the original ends in {said} and the engine does not"):
        match_outputs({"y": end(logits, axis=1)}, {"y": noisy})
    # Answers are no logits.
    match_outputs({"y": logits > 0}, {"y": logits > 1})
    # A bad engine, and one that is good, are for the figures to judge.
    for engine in (noisy, -logits, logits[::-1]):
        match_outputs({"y": logits}, {"y": engine})
        match_outputs({"y": end(logits, axis=1)}, {"y": end(engine, axis=1)})


# Another tool may rename outputs and turn them round: what has the same shape is the same output.
def test_outputs_are_paired_by_name_and_then_by_shape() -> None:
    found = match_outputs({"logits": LOGITS, "map": MAP}, {"b": MAP, "a": LOGITS})
    assert (found.names, found.findings) == ({"logits": "a", "map": "b"}, [])
    found = match_outputs({"logits": LOGITS, "other": LOGITS}, {"other": LOGITS, "scores": LOGITS})
    assert found.names == {"logits": "scores", "other": "other"}
    found = match_outputs({"logits": LOGITS, "map": MAP}, {"logits": LOGITS, "more": MAP[:, :1]})
    assert found.names == {"logits": "logits"} and [f.text.split()[1] for f in found.findings] == ["engine", "original"]
    with pytest.raises(InputError, match="none is like the original's main output logits"):
        match_outputs({"logits": LOGITS}, {"map": MAP})
