"""Protects cross-layer equalisation: the float network stays the same to the last bit, and the ranges follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.recovery import techniques
from radixrt.calibration.recovery.channels import FIXED, channel_groups
from radixrt.calibration.recovery.equalise import equalised
from radixrt.calibration.recovery.recover import recover
from radixrt.calibration.recovery.session import QuantSession
from radixrt.calibration.recovery.techniques import Search, Setting, Technique
from radixrt.engines.registry import get
from radixrt.export.graph.facts import infer
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
    assert {"node_a_conv", "node_b_conv"} <= set(found.divisors)
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
        assert (kept.amax, kept.minimum, kept.maximum) == (tensor.amax, tensor.minimum, tensor.maximum)
        assert (kept.channel_minimum, kept.channel_maximum) == (tensor.channel_minimum, tensor.channel_maximum)


def test_it_buys_accuracy_where_channels_differ() -> None:
    model = uneven()
    x = images(32)
    options = PlacementOptions(get("tensorrt").traits)
    table = calibrate(model, [{"input": x}])
    found = recover(model, table, {"input": x}, options)
    step = next(s for s in found.steps if s.technique is Technique.EQUALISE)
    assert step.after_db > step.before_db
    assert "2 layers rescaled" in step.sentence()

    def corrected(model: ir.Model, table: CalibrationTable) -> float:
        session = QuantSession(model, options, table)
        search = Search(model, table, session, Setting(options, {"input": x}, {"input": x}, 6, None))
        return search.correct_biases(session.everything(table)).sqnr_db

    assert corrected(found.base, found.table) > corrected(model, table) + 3


def groups_of(model: ir.Model) -> dict[str, list[int]]:
    found = channel_groups(infer(model.clone()).graph).of
    return {name: groups.tolist() for name, groups in found.items()}


def graph(text: str, channels: int = 4) -> ir.Model:
    """Layers a and b of four channels each around ``text``, which makes y of them, and a layer that reads y."""
    shapes = {"wa": (4, 4, 1, 1), "wb": (4, 4, 1, 1), "wc": (2, channels, 1, 1)}
    weights = [ir.tensor(np.ones(shape, np.float32), name=name) for name, shape in shapes.items()]
    body = f"a = Conv(x, wa)  b = Conv(x, wb)  {text}  end = Conv(y, wc)"
    head = '<ir_version: 10, opset_import: ["" : 21]> g (float[1, 4, 6, 6] x) => (float[1, 2, h, w] end)'
    return ir.from_onnx_text(f"{head} {{ {body} }}", initializers=weights)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("y = Add(a, b)", [("a", "y"), ("b", "y")]),
        (
            "r = Relu(a)  p = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(r)  y = Sub(p, b)",
            [("a", "p"), ("b", "y")],
        ),
        ("m = GlobalAveragePool(a)  y = Mul(m, a)  z = Exp(b)", []),
        ("g = Sigmoid(b)  y = Mul(a, g)", [("a", "y")]),
        # A map of one channel, or a row of numbers along the width, meets all channels alike.
        ("k = Constant<value_ints=[1]>()  m = ReduceMean(b, k)  y = Add(a, m)", []),
        ("p = MaxPool<kernel_shape=[3, 3]>(a)  m = GlobalAveragePool(b)  r = Flatten(m)  y = Add(p, r)", []),
        ("p = MaxPool<kernel_shape=[3, 3]>(a)  m = GlobalMaxPool(b)  r = Flatten(m)  y = Mul(r, p)", [("a", "y")]),
    ],
)
def test_channels_go_together_through_what_is_homogeneous(text: str, same: list[tuple[str, str]]) -> None:
    found = groups_of(graph(text))
    for one, other in same:
        assert found[one] == found[other] and FIXED not in found[one]
    tied = {name for pair in same for name in pair}
    assert all(FIXED in found[name] for name in {"x", "a", "b", "y", "end"} - tied), "what meets a curve is fixed"


def test_joined_channels_keep_their_number_in_their_new_place() -> None:
    found = groups_of(graph("y = Concat<axis=1>(a, b)", channels=8))
    assert found["y"] == found["a"] + found["b"]
    assert len({*found["y"]}) == 8 and FIXED not in found["y"]


@pytest.mark.parametrize("block", [plain, se_block, split_block])
def test_residual_streams_compute_the_same(block: Callable[[], ir.Model]) -> None:
    model = block()
    for layer in layers_of(model.graph):
        value = layer.node.inputs[1]
        assert value is not None
        spread = np.geomspace(1, 30, layer.weight.shape[0], dtype=np.float32).reshape(
            -1, *(1,) * (layer.weight.ndim - 1)
        )
        value.const_value = ir.tensor(layer.weight * spread, name=value.name)
    found = equalised(model, calibrate(model, [{"input": X}]), names(model))
    assert found is not None
    assert len(found.divisors) > 1, "more than one chain takes part"
    before, after = logits(model, X), logits(found.model, X)
    np.testing.assert_allclose(
        after, before, rtol=0, atol=1e-5 * np.abs(before).max()
    )  # sums may be taken in another order


def test_nothing_is_rescaled_that_no_layer_in_int8_reads() -> None:
    model = uneven()
    assert equalised(model, calibrate(model, [{"input": X}]), frozenset({"node_a_conv"})) is None


def test_the_original_is_left_alone() -> None:
    model = uneven()
    before = model_sha256(model)
    assert equalised(model, calibrate(model, [{"input": X}]), names(model)) is not None
    assert model_sha256(model) == before


def test_a_rescaled_network_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model, options = uneven(), PlacementOptions(get("tensorrt").traits)
    table = calibrate(model, [{"input": X}])
    right = equalised(model, table, names(model))
    assert right is not None
    wrong = right.model.clone()
    weight = wrong.graph.initializers["c_conv.weight"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
    monkeypatch.setattr(techniques, "equalised", lambda *_: replace(right, model=wrong))
    step = next(s for s in recover(model, table, {"input": X}, options).steps if s.technique is Technique.EQUALISE)
    assert "computes something else" in step.detail and step.after_db == step.before_db
