"""Protects the mean error that a layer's own quantisers make: it is what the runtime measures of the layer alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.recovery.local_bias import local_error
from radixrt.export.graph.layers import layers_of
from radixrt.export.graph.session import GraphSession
from tests.networks.residual import Net

_RANDOM = np.random.default_rng(0)


def one_layer(op_type: str, weight: tuple[int, ...], **attributes: Any) -> ir.Model:
    """A graph whose only layer reads the image."""
    net = Net()
    net.const("weight", _RANDOM.normal(size=weight).astype(np.float32))
    net.op(op_type, ["input", "weight"], "logits", **attributes)
    return net.build(shape=[None, None, None])


def quantised(array: np.ndarray[Any, Any], step: float) -> np.ndarray[Any, Any]:
    return np.asarray(np.floor(array / step) * step, np.float32)


CONV = {"pads": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("op_type", "weight", "attributes"),
    [
        ("Conv", (6, 3, 3, 3), CONV),
        ("Conv", (6, 1, 3, 3), {**CONV, "group": 3, "strides": [2, 2]}),
        ("Conv", (4, 3, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ("ConvTranspose", (3, 5, 2, 2), {"strides": [2, 2]}),
    ],
)
def test_it_is_what_the_layer_alone_moves_by(op_type: str, weight: tuple[int, ...], attributes: dict[str, Any]) -> None:
    model = one_layer(op_type, weight, **attributes)
    (layer,) = layers_of(model.graph)
    # The same numbers in every position, so that borders are counted exactly.
    side = int(model.graph.inputs[0].shape[2])  # type: ignore[index, arg-type]
    x = np.broadcast_to(_RANDOM.normal(size=(1, 3, 1, 1)), (1, 3, side, side)).astype(np.float32)
    xq, wq = quantised(x, 0.2), quantised(layer.weight, 0.1)
    rough = model.clone()
    rough.graph.initializers["weight"].const_value = ir.tensor(wq)
    exact = GraphSession(model)({"input": x})["logits"]
    moved = GraphSession(rough)({"input": xq})["logits"] - exact
    mean = xq.mean(axis=(0, 2, 3))
    found = local_error(layer, wq - layer.weight, mean, mean - x.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(found, moved.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
