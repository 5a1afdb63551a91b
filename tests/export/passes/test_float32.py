from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.export.passes.float32 import has_half, to_float32
from tests.networks import gated


# Rounding less is the only difference: an FP16 network of order-1 logits stays within a few of its own steps.
@pytest.mark.parametrize("keep", [False, True])
def test_values_are_those_of_the_half_graph_rounded_less(keep: bool) -> None:
    half = gated.tiny("fp16")
    full = ir.to_proto(to_float32(ir.from_proto(half), keep_half_weights=keep))
    onnx.checker.check_model(full, full_check=True)
    array = gated.images(1)
    np.testing.assert_allclose(gated.reference(full, array), gated.reference(half, array), rtol=0, atol=4e-3)


# TensorRT 8.x refuses FP16 scales and mixed types; nothing half may be left.
def test_nothing_half_is_left_without_kept_weights() -> None:
    model = to_float32(ir.from_proto(gated.tiny("fp16")))
    assert not has_half(model)
    assert all(node.op_type != "Cast" for node in model.graph)
    assert [value.name for value in model.graph.outputs] == ["logits"]


def test_a_float_graph_comes_back_as_it_was() -> None:
    before = gated.tiny("fp32")
    after = ir.to_proto(to_float32(ir.from_proto(before)))
    array = gated.images(2)[:1]
    np.testing.assert_array_equal(gated.reference(after, array), gated.reference(before, array))
