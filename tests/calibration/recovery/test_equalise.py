"""Protects cross-layer equalisation: the float network stays the same to the last bit, and the ranges follow."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.recovery.equalise import chains, equalised
from radixrt.calibration.recovery.recover import recover
from radixrt.calibration.recovery.techniques import Technique
from radixrt.engines.registry import get
from radixrt.export.graph.hash import model_sha256
from radixrt.export.graph.layers import layers_of
from tests.networks.residual import Net, images, logits, plain, se_block, split_block

X = images(8)


def uneven(groups: int = 1) -> ir.Model:
    """Three convolutions with Relus between; the channels of the first two differ a thousandfold."""
    net = Net()
    x = net.conv_relu("input", "a", 16)
    y = net.conv_relu(x, "b", 16, groups=groups)
    net.head(net.conv_relu(y, "c", 16))
    model = net.build(shape=[4])
    for name in ("a_conv", "b_conv"):
        spread = np.geomspace(1, 1000, 16, dtype=np.float32)
        for part in ("weight", "bias"):
            value = model.graph.initializers[f"{name}.{part}"]
            assert value.const_value is not None
            array = value.const_value.numpy() * spread.reshape(-1, *(1,) * (value.const_value.numpy().ndim - 1))
            value.const_value = ir.tensor(array, name=value.name)
    return model


def names(model: ir.Model) -> frozenset[str]:
    return frozenset(layer.name for layer in layers_of(model.graph))


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("optimize", [True, False])
def test_the_float_network_is_the_same_to_the_last_bit(groups: int, optimize: bool) -> None:
    model = uneven(groups)
    found = equalised(model, calibrate(model, [{"input": X}]), names(model))
    assert found is not None
    assert set(found.divisors) == {"node_a_conv", "node_b_conv"}
    assert all(np.unique(np.abs(np.log2(d)) % 1).tolist() == [0] for d in found.divisors.values())
    np.testing.assert_array_equal(logits(found.model, X, optimize=optimize), logits(model, X, optimize=optimize))


def test_the_ranges_are_those_that_calibrating_again_gives() -> None:
    model = uneven()
    found = equalised(model, calibrate(model, [{"input": X}]), names(model))
    assert found is not None
    again = calibrate(found.model, [{"input": X}])
    assert found.table.model_sha256 == again.model_sha256 == model_sha256(found.model)
    for tensor in again.tensors:
        kept = found.table.find(tensor.name)
        assert kept is not None
        assert (kept.amax, kept.maximum, kept.channel_amax) == (tensor.amax, tensor.maximum, tensor.channel_amax)


def test_it_buys_accuracy_where_channels_differ() -> None:
    model = uneven()
    x = images(32)
    found = recover(model, calibrate(model, [{"input": x}]), {"input": x}, PlacementOptions(get("tensorrt").traits))
    step = next(s for s in found.steps if s.technique is Technique.EQUALISE)
    assert step.after_db > step.before_db + 3
    assert "2 pairs" in step.sentence()


def test_only_plain_chains_are_touched() -> None:
    model = uneven()
    assert equalised(model, calibrate(model, [{"input": X}]), frozenset({"node_a_conv"})) is None, (
        "no second layer is quantised"
    )
    # What the stem makes is read twice, and the block's last convolution feeds an Add.
    assert [c.first.name for c in chains(plain().graph)] == ["node_a_conv"]
    assert "node_stem_conv" not in {c.first.name for c in (*chains(se_block().graph), *chains(split_block().graph))}


def test_the_original_is_left_alone() -> None:
    model = uneven()
    before = model_sha256(model)
    assert equalised(model, calibrate(model, [{"input": X}]), names(model)) is not None
    assert model_sha256(model) == before
