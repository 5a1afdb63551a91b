"""Protects what calibration and references run graphs with: tensors by name, whole batches, refusals in a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from radixrt.errors import InputError
from radixrt.export.graph.session import GraphSession
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
