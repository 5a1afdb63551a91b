from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.engines.cpu.seven_bits import to_seven_bits
from tests.engines import graphs


# 255 x 64 x 2 is the largest pair of products that fits 16 bits: one weight above it and results are silently wrong.
def test_no_pair_of_products_leaves_16_bits() -> None:
    model = to_seven_bits(ir.from_proto(graphs.tiny("int8")))
    weights = model.graph.initializers["w_int8"].const_value
    assert weights is not None
    values = weights.numpy().astype(int)
    assert 255 * np.abs(values).max() * 2 <= 2**15 - 1
    assert np.abs(values).max() > 32, "a whole bit more than needed was thrown away"


# The scales must be doubled with the weights halved; a miss would be off by a factor of two.
def test_results_stay_within_half_a_step_of_the_weights() -> None:
    before = graphs.tiny("int8")
    after = ir.to_proto(to_seven_bits(ir.from_proto(before)))
    array = graphs.images(1)
    np.testing.assert_allclose(graphs.reference(after, array), graphs.reference(before, array), rtol=0, atol=1e-2)


def test_the_graph_that_was_given_stays_as_it_was() -> None:
    model = ir.from_proto(graphs.tiny("int8"))
    before = model.graph.initializers["w_int8"].const_value.numpy().copy()  # type: ignore[union-attr]
    to_seven_bits(model)
    # type: ignore[union-attr]
    np.testing.assert_array_equal(model.graph.initializers["w_int8"].const_value.numpy(), before)
