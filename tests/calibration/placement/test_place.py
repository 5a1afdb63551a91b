"""Protects the placement table of the design, rule by rule, as golden Q/DQ placements of small blocks."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.calibration.int8 import sqnr_db
from radixrt.calibration.placement.options import Ends, PlacementOptions, PlacementReport
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.engines.registry import get
from radixrt.errors import InputError
from radixrt.export.graph.facts import Signs
from tests.networks.onnx_text import graph
from tests.networks.residual import Net, gate, images, logits, plain, se_block, split_block, stem

ALL = {"first": Ends.INT8, "last": Ends.INT8}


def placed(model: ir.Model, target: str = "tensorrt", **more: object) -> tuple[ir.Model, PlacementReport]:
    options = PlacementOptions(get(target).traits, **{**ALL, **more})  # type: ignore[arg-type]
    graph, report = place(model, calibrate(model, [{"input": images(2)}]), options)
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    return graph, report


def kept(report: PlacementReport) -> dict[str, str]:
    return {k.node: k.reason for k in report.kept_float}


def reads(graph: ir.Model, node: str) -> list[str]:
    """The computed inputs of a node, weights left out."""
    found = next(n for n in graph.graph if n.name == node)
    return [
        v.name or "" for v in found.inputs if v is not None and v.producer() is not None and "weight" not in str(v.name)
    ]


def test_residual_block_on_tensorrt() -> None:
    graph, report = placed(plain())
    # b feeds the Add directly: nothing between; the skip branch (stem) is quantised. The pool moves values: one scale.
    assert report.points == ("input", "stem", "a", "out", "pool", "flat")
    assert reads(graph, "node_sum") == ["b", "stem_dq"]
    assert report.float_round_trips == 0
    assert kept(report) == {}


# An INT8 convolution of TensorRT for RTX writes FP32: where weights are few it moves more bytes than FP16 does.
def test_tensorrt_for_rtx_takes_heavy_layers_only_and_leaves_what_they_write_alone() -> None:
    net = Net()
    x = net.conv_relu(stem(net), "down", 64, stride=4)
    y = net.conv(net.conv_relu(x, "a", 64), "b", 64)
    net.head(net.op("Relu", [net.op("Add", [y, x], "sum")], "out"))
    graph, report = placed(net.build(shape=[4]), "tensorrt-rtx")
    # At 64 channels of 4 x 4, a and b have 36 weights for each element that they write; the stem has a tenth of one.
    assert {"node_down_conv", "node_a_conv", "node_b"} <= set(report.quantized)
    assert list(kept(report)) == ["node_stem_conv"]
    assert all("TensorRT for RTX" in why for why in kept(report).values())
    assert (reads(graph, "node_a_conv"), reads(graph, "node_b")) == (["down_dq"], ["a_dq"])
    assert not {"b", "sum", "out"} & set(report.points), "what no INT8 layer reads was quantised"
    assert "node_stem_conv" in placed(net.build(shape=[4]))[1].quantized, "the rule is for that target alone"


def test_residual_block_on_a_cpu() -> None:
    graph, report = placed(plain(), "onnxruntime")
    assert reads(graph, "node_sum") == ["b_dq", "stem_dq"], "the convolution would run in float"
    assert report.float_round_trips == 0


def test_two_convolutions_before_an_add_quantise_the_shallower() -> None:
    net = Net()
    x = stem(net)
    deep = net.conv(net.conv_relu(x, "a", 16), "deep", 16)
    shallow = net.conv(x, "shallow", 16, kernel=1)
    for order in ([deep, shallow], [shallow, deep]):
        again = Net()
        again.nodes, again.inits, again.channels = list(net.nodes), list(net.inits), dict(net.channels)
        again.head(again.op("Relu", [again.op("Add", order, "sum")], "out"))
        graph, _ = placed(again.build(shape=[4]))
        assert sorted(reads(graph, "node_sum")) == ["deep", "shallow_dq"]


def test_gate_path_stays_in_high_precision() -> None:
    graph, report = placed(se_block())
    assert set(kept(report)) == {"node_gate_fc1_conv", "node_gate_fc2"}
    assert all("gate path" in reason for reason in kept(report).values())
    # The wide side of the product is quantised, the gate is not.
    assert reads(graph, "node_v") == ["u_dq", "gate"]
    assert sum(trip.attention for trip in report.round_trips) == 1
    assert report.float_round_trips == 0


def test_layers_of_boxes_are_no_gate_whatever_shape_their_numbers_are_put_into() -> None:
    model = graph(
        """g (float[1,3,16,16] input) => (float[1,2,2,4] boxes)
        <float[16,3,16,16] w, float[16,16] w1, float[16] b1, float[16,16] w2, float[16] b2, int64[4] to = {1,2,2,4}> {
          [stem] c = Conv(input, w)  f = Flatten(c)
          [fc6] g6 = Gemm<transB=1>(f, w1, b1)  r = Relu(g6)
          [fc7] g7 = Gemm<transB=1>(r, w2, b2)
          boxes = Reshape(g7, to)
        }"""
    )
    assert {"fc6", "fc7"} <= set(placed(model, "onnxruntime")[1].quantized)


def test_an_se_block_with_a_relu_behind_its_sum_stays_in_integers_where_there_are_kernels() -> None:
    graph, report = placed(se_block(), "onnxruntime")
    assert reads(graph, "node_v") == ["u_dq", "gate_dq"]
    assert reads(graph, "node_sum") == ["v_dq", "stem_dq"]
    assert not report.round_trips


def test_radix_splits_share_one_pair_before_the_split() -> None:
    graph, report = placed(split_block())
    assert "u" in report.points
    assert not {"u0", "u1"} & set(report.points)
    assert reads(graph, "node_u0") == reads(graph, "node_u1") == ["u_dq"]
    assert reads(graph, "node_gate_gap") == ["u_dq"]
    assert sum(trip.attention for trip in report.round_trips) == 1
    assert report.float_round_trips == 0
    trip = next(t for t in report.round_trips if t.attention)
    assert (trip.source, trip.target) == ("u", "v")


def test_splits_that_feed_convolutions_share_one_scale() -> None:
    net = Net()
    x = net.conv_relu("input", "wide", 32)
    halves = []
    for i, (start, stop) in enumerate(((0, 16), (16, 32))):
        ends = [net.const(f"{k}{i}", np.array([v], np.int64)) for k, v in (("s", start), ("e", stop), ("a", 1))]
        part = net.op("Slice", [x, *ends], f"part{i}")
        net.channels[part] = 16
        halves.append(net.conv_relu(part, f"half{i}", 16))
    net.op("Concat", halves, "both", axis=1)
    net.channels["both"] = 32
    net.head("both")
    graph, report = placed(net.build(shape=[4]))
    scales = {}
    for node in graph.graph:
        if node.op_type == "QuantizeLinear":
            scale = ir.convenience.get_const_tensor(node.inputs[1])
            assert scale is not None
            scales[node.inputs[0].name] = float(scale.numpy())
    assert scales["part0"] == scales["part1"] == scales["wide"]
    assert report.float_round_trips == 0


@pytest.mark.parametrize(
    ("channels", "groups", "target", "word"),
    [
        (24, 4, "tensorrt", "not a multiple of 4"),
        (16, 16, "tensorrt", "not a multiple of 4"),
        (32, 4, "tensorrt", "below 16"),
        (32, 4, "onnxruntime", "below 16"),
        (64, 4, "tensorrt", ""),
    ],
)
def test_narrow_groups(channels: int, groups: int, target: str, word: str) -> None:
    net = Net()
    net.head(net.conv_relu(net.conv_relu("input", "wide", channels), "grouped", channels, groups=groups))
    _, report = placed(net.build(shape=[4]), target)
    reason = kept(report).get("node_grouped_conv", "")
    assert word in reason
    assert bool(reason) == bool(word)


def test_ends_are_options() -> None:
    _, report = placed(plain(), first=Ends.FLOAT, last=Ends.FLOAT)
    assert {k: v.split(":")[0] for k, v in kept(report).items()} == {
        "node_stem_conv": "first layer",
        "node_logits": "last layer",
    }


def test_exclude_by_node() -> None:
    _, report = placed(plain(), exclude=frozenset({"node_a_conv"}))
    assert kept(report) == {"node_a_conv": "kept in float on request"}


def test_a_float_layer_between_integer_ones_is_counted() -> None:
    _, report = placed(plain(), exclude=frozenset({"node_c_conv"}), last=Ends.INT8)
    whole, _ = placed(plain())
    assert whole is not None
    net = Net()
    x = net.conv_relu(stem(net), "a", 16)
    x = net.op("Sigmoid", [net.conv(x, "b", 16)], "curve")  # no engine computes a sigmoid on integers
    net.head(net.conv_relu(x, "c", 16))
    _, report = placed(net.build(shape=[4]))
    assert report.float_round_trips == 1


def test_weights_are_integers_per_output_channel() -> None:
    graph, _ = placed(plain())
    conv = next(n for n in graph.graph if n.name == "node_a_conv")
    restore = conv.inputs[1].producer()  # type: ignore[union-attr]
    assert restore is not None
    assert restore.op_type == "DequantizeLinear"
    stored, scale, zero = (ir.convenience.get_const_tensor(v).numpy() for v in restore.inputs)  # type: ignore[union-attr]
    assert stored.dtype == np.int8
    assert scale.shape == (16,)
    assert not zero.any()
    weight = plain().graph.initializers["a_conv.weight"].const_value.numpy()  # type: ignore[union-attr]
    assert np.abs(stored).reshape(16, -1).max(axis=1).tolist() == [127] * 16
    assert np.abs(stored * scale[:, None, None, None] - weight).max() <= scale.max() / 2 * 1.0001


@pytest.mark.parametrize("build", [plain, se_block, split_block])
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_quantised_graph_still_computes_the_network(build: object, target: str) -> None:
    model = build()  # type: ignore[operator]
    graph, _ = placed(model, target)
    x = images(4, seed=5)
    assert sqnr_db(logits(model, x), logits(graph, x, optimize=False)) > 20


def test_quantising_leaves_the_float_graph_alone() -> None:
    model = plain()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    placed(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_table_of_another_graph_is_refused() -> None:
    table = calibrate(plain(), [{"input": images(2)}])
    with pytest.raises(InputError, match="no range for"):
        place(split_block(), table, PlacementOptions(get("tensorrt").traits))


def test_a_damaged_range_is_refused() -> None:
    model = plain()
    table: CalibrationTable = calibrate(model, [{"input": images(2)}]).with_amax({"a": float("nan")})
    with pytest.raises(InputError, match="cannot be quantised"):
        place(model, table, PlacementOptions(get("tensorrt").traits))


def test_signs_are_proved_not_guessed() -> None:
    model = split_block()
    values = {v.name: v for n in model.graph for v in n.outputs}
    signs = Signs()
    positive = {name for name, value in values.items() if signs.nonnegative(value)}
    assert {"stem", "u", "u0", "gate", "v", "out", "pooled"} <= positive
    assert not {"stem_conv", "difference", "product", "c3", "sum", "logits"} & positive


def test_gates_by_gemm_are_gates_and_the_classifier_is_not() -> None:
    net = Net()
    u = stem(net)
    flat = net.op("Flatten", [net.op("GlobalAveragePool", [u], "squeezed")], "flattened", axis=1)
    net.const("w", np.eye(16, dtype=np.float32))
    weights = net.op("Sigmoid", [net.op("Gemm", [flat, "w"], "fc", transB=1)], "sigmoid")
    net.const("shape", np.array([-1, 16, 1, 1], np.int64))
    v = net.op("Mul", [u, net.op("Reshape", [weights, "shape"], "column")], "v")
    net.channels["v"] = 16
    net.head(v)
    _, report = placed(net.build(shape=[4]))
    assert set(kept(report)) == {"node_fc"}
    assert "node_logits" in report.quantized


def test_gate_helper_is_recognised_with_hard_sigmoid() -> None:
    net = Net()
    u = stem(net)
    v = net.op("Mul", [u, gate(net, u, 16, "g", act="HardSigmoid")], "v")
    net.head(v)
    _, report = placed(net.build(shape=[4]))
    assert set(kept(report)) == {"node_g_fc1_conv", "node_g_fc2"}


def test_cpus_use_all_levels_of_what_is_never_negative() -> None:
    model = split_block()
    graph, _ = placed(model, "onnxruntime")
    table = calibrate(model, [{"input": images(2)}])
    pairs = {n.inputs[0].name: n for n in graph.graph if n.op_type == "QuantizeLinear"}  # type: ignore[union-attr]

    def pair(name: str) -> tuple[float, np.ndarray]:
        scale, zero = (ir.convenience.get_const_tensor(v).numpy() for v in pairs[name].inputs[1:])  # type: ignore[union-attr]
        return float(scale), zero

    scale, zero = pair("u")
    assert zero.dtype == np.uint8 and zero == 0
    assert scale == pytest.approx(table.amax("u") / 255)
    scale, zero = pair("input")
    seen = table.find("input")
    assert seen is not None and zero.dtype == np.uint8
    # Its range is what was seen, not the same on both sides of 0.
    assert scale == pytest.approx((seen.maximum - seen.minimum) / 255)
    assert int(zero) == round(-seen.minimum / scale)
    signed, _ = placed(model, "openvino")
    assert ir.DataType.INT8 in {n.outputs[0].dtype for n in signed.graph if n.op_type == "QuantizeLinear"}
    # TensorRT takes s8 alone.
    devices, _ = placed(model, "tensorrt")
    kinds = {n.outputs[0].dtype for n in devices.graph if n.op_type == "QuantizeLinear"}
    assert kinds == {ir.DataType.INT8}


def test_the_complement_of_a_gate_is_never_negative() -> None:
    # The two-way attention's other spelling, g U0 + (1 - g) U1. One minus anything else proves nothing.
    net = Net()
    u = stem(net)
    g = gate(net, u, 16, "gate")
    one = net.const("one", np.ones(1, np.float32))
    net.op("Add", [net.op("Mul", [u, g], "left"), net.op("Mul", [u, net.op("Sub", [one, g], "rest")], "right")], "v")
    net.op("Sub", [one, u], "other")
    net.channels["v"] = 16
    net.op("Add", ["v", "other"], "w")
    net.channels["w"] = 16
    net.head("w")
    values = {v.name: v for n in net.build(shape=[4]).graph for v in n.outputs}
    signs = Signs()
    assert signs.nonnegative(values["rest"])
    assert signs.nonnegative(values["v"])
    assert not signs.nonnegative(values["other"])
