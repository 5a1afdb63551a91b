from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.engines.tensorrt.rtx.unquantised import in_float16, remove_pairs
from radixrt.export.passes.float16 import to_float16
from tests.networks import gated


# What is compared with the INT8 plan must be the same network: the weights as they were dequantised, nothing lost.
def test_without_pairs_the_network_is_the_same_but_for_the_rounding_of_its_input() -> None:
    quantised = gated.tiny("int8")
    plain = ir.to_proto(remove_pairs(ir.from_proto(quantised)))
    onnx.checker.check_model(plain, full_check=True)
    assert not [node for node in plain.graph.node if "Linear" in node.op_type]
    # Values on the grid of the input's scale pass Q/DQ unchanged, so there the two must agree to float rounding.
    step = np.float32(3 / 127)
    array = np.round(gated.images(1).clip(-2.9, 2.9) / step).astype(np.float32) * step
    np.testing.assert_allclose(gated.reference(plain, array), gated.reference(quantised, array), rtol=0, atol=1e-5)


# The deploy graph of this family has FP16 between its pairs already; typing it again must change nothing.
@pytest.mark.parametrize("half", [False, True])
def test_the_fp16_form_is_half_throughout(tmp_path: Path, half: bool) -> None:
    model = ir.from_proto(gated.tiny("int8"))
    ir.save(to_float16(model).model if half else model, tmp_path / "deploy.onnx")
    stand_in = onnx.load_from_string(in_float16(tmp_path / "deploy.onnx"))
    onnx.checker.check_model(stand_in, full_check=True)
    assert {w.data_type for w in stand_in.graph.initializer} == {onnx.TensorProto.FLOAT16}
    array = gated.images(1).clip(-2.9, 2.9)
    np.testing.assert_allclose(
        gated.reference(stand_in, array), gated.reference(gated.tiny("int8"), array), rtol=0, atol=3e-2
    )
