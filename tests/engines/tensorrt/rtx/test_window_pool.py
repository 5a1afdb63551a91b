from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.engines.tensorrt.rtx.window_pool import WindowPool
from tests.export.passes.test_squeeze_early import bottleneck_tail
from tests.networks.convolutions import activation, clone, constant, model_of, run, whole


@pytest.mark.parametrize("reduce_mean", [False, True])
def test_global_pooling_as_a_window(reduce_mean: bool) -> None:
    original = bottleneck_tail(reduce_mean=reduce_mean)
    model = clone(original)
    onnx_model = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    model = ir.from_proto(onnx_model)
    assert WindowPool()(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not {"GlobalAveragePool", "ReduceMean"} & {node.op_type for node in model.graph}
    x = whole(np.random.default_rng(3), 2, 4, 5, 6)
    np.testing.assert_allclose(run(model, x), run(original, x), rtol=1e-5, atol=1e-4)


# Without a static size there is no window to write; a mean over other axes is no pooling.
def test_what_is_no_static_global_pooling_stays() -> None:
    x = activation("input", [1, 4, "h", 6])
    y = activation("logits", [1, 4, 1, 1])
    open_size = model_of([x], [y], [ir.Node("", "GlobalAveragePool", [x], outputs=[y], name="pool")])
    assert not WindowPool()(open_size).modified
    x = activation("input", [1, 4, 5, 6])
    y = activation("logits", [1, 1, 5, 6])
    axes = constant("axes", np.asarray([1], np.int64))
    channels = model_of([x], [y], [ir.Node("", "ReduceMean", [x, axes], outputs=[y], name="mean")])
    assert not WindowPool()(channels).modified
