"""Sparse weights become dense ones, and a file that lies about them is refused before it costs memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx
from tests.export.reader.test_onnx_file import save, tiny


def sparsely(model: onnx.ModelProto, *, inside: bool = False, pairs: bool = False, **false: object) -> np.ndarray:
    """Stores the first weight sparsely; gives it dense."""
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[np.abs(weight) < 0.5] = 0.0
    places = np.argwhere(weight) if pairs else np.flatnonzero(weight)
    values = numpy_helper.from_array(weight[weight != 0], "w")
    shape = false.get("shape", weight.shape)
    places = false.get("places", places)
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64)), shape)
    del model.graph.initializer[0]
    if inside:
        sparse.values.name = ""
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    else:
        model.graph.sparse_initializer.append(sparse)
    return weight


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("pairs", [True, False])
def test_sparse_weights_are_read(inside: bool, pairs: bool, tmp_path: Path) -> None:
    model = tiny()
    expected = sparsely(model, inside=inside, pairs=pairs)
    read = read_onnx(save(model, tmp_path))
    values = [*read.graph.initializers.values(), *(v for node in read.graph for v in node.outputs)]
    found = next(value.const_value for value in values if value.name == "w")
    if found is None:
        found = next(node for node in read.graph if node.op_type == "Constant").attributes["value"].as_tensor()
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    ("false", "message"),
    [
        ({"shape": [1 << 20, 1 << 20]}, "claims the shape"),
        ({"shape": [-1, 4]}, "claims the shape"),
        ({"places": np.array([10**6])}, "is damaged"),
        ({"places": np.array([[-1, 0, 0, 0]])}, "is damaged"),
        ({"places": np.array([-2])}, "is damaged"),
    ],
)
def test_a_false_sparse_weight_is_refused(false: dict[str, object], message: str, tmp_path: Path) -> None:
    model = tiny()
    sparsely(model, **false)
    with pytest.raises(InputError, match=message):
        read_onnx(save(model, tmp_path))
