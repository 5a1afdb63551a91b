"""Protects what counts as a layer: foreign graphs write linear layers in ways that PyTorch's exporter does not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.int8 import sqnr_db
from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.recovery.recover import shifted
from radixrt.engines.registry import get
from radixrt.export.graph.layers import layers_of
from tests.networks.residual import Net, images, logits

X = images(8)


def linear(bias: tuple[int, ...] | None, op_type: str = "Gemm", **attributes: object) -> ir.Model:
    """A convolution and a linear layer; a bias of shape None is computed from the image."""
    net = Net()
    x = net.op("Flatten", [net.op("GlobalAveragePool", [net.conv_relu("input", "a", 8)], "gap")], "flat", axis=1)
    net.const("fc.weight", net.rng.normal(size=(8, 4)).astype(np.float32))
    if bias is None:
        net.const("other", net.rng.normal(size=(8, 4)).astype(np.float32))
        added = net.op("MatMul", [x, "other"], "computed")
    else:
        added = net.const("fc.bias", net.rng.normal(size=bias).astype(np.float32))
    if op_type == "Gemm":
        net.op("Gemm", [x, "fc.weight", added], "logits", **attributes)
    else:
        net.op("Add", [net.op("MatMul", [x, "fc.weight"], "product"), added], "logits")
    return net.build()


def last_layer(model: ir.Model) -> bool:
    return any(layer.node.inputs[1].name == "fc.weight" for layer in layers_of(model.graph) if layer.node.inputs[1])


@pytest.mark.parametrize("bias", [(4,), (1, 4), (1,), ()])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_bias_of_any_shape_is_one_number_for_each_channel(bias: tuple[int, ...], target: str) -> None:
    model = linear(bias)
    options = PlacementOptions(get(target).traits, first=Ends.INT8, last=Ends.INT8)
    placed, report = place(model, calibrate(model, [{"input": X}]), options)
    exact = logits(model, X)
    assert len(report.quantized) == 2
    assert sqnr_db(exact, logits(placed, X, optimize=False)) > 30
    name = report.quantized[-1]
    moved = logits(shifted(model, {name: np.arange(4, dtype=np.float32)}), X)
    np.testing.assert_allclose(moved - exact, np.broadcast_to(np.arange(4), exact.shape), atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [linear(None), linear((4,), alpha=0.5), linear((4,), beta=2.0)],
    ids=["computed bias", "alpha", "beta"],
)
def test_what_is_no_linear_layer_stays_in_float(model: ir.Model) -> None:
    assert not last_layer(model)


def test_what_is_added_for_each_image_is_no_bias() -> None:
    model = linear((2, 4), "MatMul")
    (layer,) = (layer for layer in layers_of(model.graph) if layer.node.op_type == "MatMul")
    assert layer.bias is None
