"""What a file does beside its layers stays as it stands, and the blocks around it are still lowered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from radixrt.errors import InputError
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.sandbox import read_foreign
from radixrt.export.reader.simplify import simplify
from radixrt.export.spec import FileChoice
from tests.networks.post_processed import post_processed


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def answers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).normal(size=(1, 3, 32, 32)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": image}), strict=True))


# Nobody can tell the shape behind a loop, so it passes where shapes may stay unknown.
@pytest.mark.parametrize(("kind", "operator"), [("boxes", "NonMaxSuppression"), ("loop", "Loop")])
def test_it_stands_and_the_block_is_lowered(kind: str, operator: str, tmp_path: Path) -> None:
    original = post_processed(kind)
    graph = read_foreign(saved(original, tmp_path), FileChoice(opaque=kind == "loop")).simplified
    model, report = rewrite(graph, RewriteOptions())
    assert [block.kind for block in report.attention_blocks] == ["se"] and report.attention_blocks[0].lowering
    assert operator in [node.op_type for node in model.graph]
    before, after = answers(original), answers(ir.to_proto(model))
    assert set(before) == set(after)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=1e-4, atol=1e-5)


def test_a_loop_that_nobody_bounds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a Loop without a fixed number of rounds"):
        read_onnx(saved(post_processed("loop", None), tmp_path))
    with pytest.raises(InputError, match="is a Loop without a fixed number of rounds"):
        read_onnx(saved(post_processed("loop", 10**9), tmp_path))


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_an_operator_of_another_domain_is_left_where_nothing_is_run(opset: int, tmp_path: Path) -> None:
    original = post_processed("foreign")
    next(entry for entry in original.opset_import if not entry.domain).version = opset
    path, said = saved(original, tmp_path), []  # type: ignore[var-annotated]
    with pytest.raises(InputError, match=r"acme\.Swirl, which is no standard ONNX operator.*rewrite"):
        read_onnx(path)
    graph = read_onnx(path, FileChoice(opaque=True), said.append)
    model, report = rewrite(simplify(graph, opaque=True), RewriteOptions())
    assert "Swirl" in [node.op_type for node in model.graph] and "acme.Swirl" in said[0] and "not run" in said[0]
    assert [value.name for value in model.graph.outputs] == ["y"]
    # Nobody says what the operator makes but the convolution that reads it.
    assert [block.kind for block in report.attention_blocks] == ["se"] and report.attention_blocks[0].lowering
