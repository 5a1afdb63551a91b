"""Protects what calibration and references run graphs with: tensors by name, whole batches, refusals in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.errors import InputError
from radixrt.export.feed import Feed, length
from radixrt.export.graph import session as session_module
from radixrt.export.graph.session import GraphSession, with_kept_pads
from tests.networks.residual import Net, images, plain


def fixed_batch() -> Net:
    net = Net(batch=4)
    net.head(net.conv_relu("input", "a", 8))
    return net


def test_inner_tensors_come_beside_the_graphs_own_outputs_and_the_graph_stays_as_it_was() -> None:
    model = plain()
    before = [value.name for value in model.graph.outputs]
    found = GraphSession(model, ["out", "logits", "absent"])({"input": images(1)})
    assert list(found) == ["logits", "out"] and found["out"].shape == (1, 16, 16, 16)
    assert [value.name for value in model.graph.outputs] == before


def test_any_number_of_images_runs_through_a_fixed_batch() -> None:
    session = GraphSession(fixed_batch().build(shape=[4]), threads=1)
    x = images(6)
    assert session.batch == 4
    rows = session.over({"input": x})["logits"]
    assert rows.shape == (6, 4)
    np.testing.assert_array_equal(rows[4:], session({"input": np.concatenate([x[4:], x[5:], x[5:]])})["logits"][:2])


def test_no_tensor_asked_for_is_none_returned() -> None:
    assert GraphSession(plain())({"input": images(1)}, []) == {}


def test_refusals_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"samples of shape \(1, 3, 20, 20\) do not fit"):
        GraphSession(plain())({"input": images(1, size=20)})
    model = plain()
    next(node for node in model.graph if node.op_type == "Relu").op_type = "NoSuchOperator"
    with pytest.raises(InputError, match="onnxruntime cannot run the graph") as refused:
        GraphSession(model)
    assert "\n" not in str(refused.value)


def test_batches_that_run_at_the_same_time_come_in_order_and_before_a_fault_of_their_source() -> None:
    session = GraphSession(plain(), threads=4, beside=True)
    data = images(6)

    def source() -> Iterator[dict[str, np.ndarray]]:
        yield from ({"input": data[i : i + 1]} for i in range(6))
        raise OSError("the disk is gone")

    alone, seen = GraphSession(plain(), threads=1), 0
    with pytest.raises(OSError, match="the disk is gone"):
        for i, (feed, tensors) in enumerate(session.each(source())):
            np.testing.assert_array_equal(feed["input"], data[i : i + 1])
            np.testing.assert_array_equal(tensors["logits"], alone(feed)["logits"])
            seen += 1
    assert seen == 6


@pytest.mark.parametrize(("size", "threads", "runs"), [(16, 1, 1), (16, 4, 4), (2048, 8, 4), (None, 8, 1)])
def test_as_many_runs_go_on_at_once_as_memory_has_room_for(size: int | None, threads: int, runs: int) -> None:
    net = Net()
    net.head(net.conv_relu("input", "a", 2))
    model = net.build()
    model.graph.inputs[0].shape = ir.Shape(["N", 3, size, size])
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    assert GraphSession(model, threads=threads, beside=True)._beside == runs


def test_no_more_samples_run_together_than_memory_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {"input": np.zeros((8, 3, 16, 16), np.float32)}
    together: list[int] = []
    run = GraphSession.__call__

    def counted(session: GraphSession, feed: Feed, *given: Any) -> dict[str, Any]:
        together.append(length(feed))
        return run(session, feed, *given)

    monkeypatch.setattr(GraphSession, "__call__", counted)
    for bytes_, expected in ((1 << 28, [8]), (160_000, [3, 3, 2]), (1, [1] * 8)):
        monkeypatch.setattr(session_module, "_LIVE_BYTES", bytes_)
        together.clear()
        GraphSession(plain(), threads=1, beside=True).over(samples, batch=8)
        assert together == expected


@pytest.mark.parametrize("fill", ["", ", zero"])
@pytest.mark.parametrize("kind", ["Neg", "Relu"])
def test_zeros_padded_for_a_maximum_stay_the_largest_of_negative_numbers(kind: str, fill: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float[N, 2, 6, 6] x) => (float[N, 2, 3, 3] y)
    <int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, float zero = {{0}}>
    {{ a = Softplus(x)  n = {kind}(a)  p = Pad(n, pads{fill})  y = MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(p) }}"""
    model = ir.from_onnx_text(text)
    x = {"x": np.random.default_rng(0).normal(size=(1, 2, 6, 6)).astype(np.float32)}
    exact, found = (GraphSession(model, optimize=optimize)(x)["y"] for optimize in (False, True))
    np.testing.assert_allclose(found, exact, atol=1e-6)
    # What is never negative is padded by the MaxPool itself, which is quicker.
    assert (with_kept_pads(model) is model) == (kind == "Relu")
