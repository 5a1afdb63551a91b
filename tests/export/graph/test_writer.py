"""What is written into a graph stands there whole, or leaves no trace."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.export.graph.origin import module_of, set_module
from radixrt.export.graph.writer import GraphWriter
from tests.networks.exported import run
from tests.networks.onnx_text import graph

TEXT = """net (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y) <float[2, 2, 1, 1] w> {
    a = Conv(x, w)
    y = Relu(a)
}"""
FEEDS = {"x": np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)}


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == op_type)


def readers(model: ir.Model) -> dict[str, list[str]]:
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    return {str(v.name): sorted(n.op_type for n, _ in v.uses()) for v in values}


# Protects every pass whose proof misses: a reader that stands in no graph makes later passes decline in silence.
def test_discard_leaves_no_reader_no_constant_and_no_name_behind() -> None:
    model = graph(TEXT)
    before = readers(model)
    writer = GraphWriter(model.graph)
    x = model.graph.inputs[0]
    scaled = writer.op("Mul", [x, writer.constant(np.float32([2]), "two")], "scaled")
    writer.ops("Split", [scaled, writer.integers([1, 1], "sizes")], ["left", "right"], {"axis": 1})
    assert readers(model) != before
    writer.discard()
    assert readers(model) == before
    assert writer.nodes == ()
    assert writer.unique("scaled") == "scaled"


def test_commit_gives_the_new_tensor_the_old_ones_name_and_readers() -> None:
    model = graph(TEXT)
    expected = run(model, FEEDS)
    relu = node(model, "Relu")
    writer = GraphWriter(model.graph, origin="layer1.act")
    zero = writer.constant(np.float32(0), "zero")
    new = writer.op("Max", [relu.inputs[0], zero], "maximum")
    writer.constant(np.float32(1), "unused")
    writer.commit(relu.outputs[0], new)
    assert [n.op_type for n in model.graph] == ["Conv", "Max"]
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert list(model.graph.initializers) == ["w", "zero"]  # what nothing reads is no initializer
    assert module_of(node(model, "Max")) == "layer1.act"
    np.testing.assert_array_equal(run(model, FEEDS), expected)


# Protects small files: what only the replaced nodes read goes with them, back to the weights.
def test_commit_prunes_what_nothing_reads_any_more() -> None:
    model = graph(TEXT)
    writer = GraphWriter(model.graph)
    new = writer.op("Relu", [model.graph.inputs[0]], "short")
    writer.commit(model.graph.outputs[0], new)
    assert [n.op_type for n in model.graph] == ["Relu"]
    assert not model.graph.initializers
    assert not any("Conv" in names for names in readers(model).values())


def test_commit_without_pruning_keeps_the_old_nodes_and_both_names() -> None:
    model = graph(TEXT)
    conv = node(model, "Conv")
    writer = GraphWriter(model.graph)
    writer.commit(conv.outputs[0], writer.op("Neg", [conv.inputs[0]], "other"), prune=False)
    assert [n.op_type for n in model.graph] == ["Conv", "Neg", "Relu"]
    assert [n.outputs[0].name for n in model.graph] == ["a", "other", "y"]


def test_names_are_unique_and_a_prefix_that_is_taken_gets_a_number() -> None:
    model = graph(TEXT)
    assert [GraphWriter(model.graph).unique(n) for n in ("a", "w", "x", "new")] == ["a_1", "w_1", "x_1", "new"]
    writer = GraphWriter(model.graph, "block")
    writer.op("Neg", [model.graph.inputs[0]], "out")
    writer.append()
    assert GraphWriter(model.graph, "block").unique("out") == "block2.out"


# Protects shared weights: equal numbers of one name are stored once, other numbers are never taken for them.
def test_a_constant_of_one_name_is_shared_only_where_its_numbers_are_the_same() -> None:
    model = graph(TEXT)
    writer = GraphWriter(model.graph)
    one = writer.constant(np.float32([1]), "c")
    assert writer.constant(np.float32([1]), "c") is one
    assert writer.constant(np.float32([2]), "c").name == "c_1"
    assert writer.constant(np.int64([1]), "c").name == "c_2"
    weight = model.graph.initializers["w"]
    assert weight.const_value is not None
    assert writer.constant(weight.const_value.numpy(), "w") is weight


def test_nodes_go_where_they_are_put() -> None:
    model = graph(TEXT)
    writer, relu = GraphWriter(model.graph), node(model, "Relu")
    for place in ("before", "behind", "behind input", "append"):
        source = model.graph.inputs[0] if "input" in place else node(model, "Conv").outputs[0]
        writer.op("Identity", [source], place)
        if place == "before":
            writer.insert_before(relu)
        elif place == "append":
            writer.append()
        else:
            writer.insert_behind(source)
    order = ["behind input", "a", "behind", "before", "y", "append"]
    assert [n.outputs[0].name for n in model.graph] == order


# Protects origins: what stands for a node in another spelling is called as it was and keeps all it says of itself.
def test_a_node_in_another_spelling_keeps_name_origin_and_metadata() -> None:
    model = graph(TEXT)
    relu = node(model, "Relu")
    relu.name, relu.metadata_props["note"] = "relu_7", "mine"
    set_module(relu, "layer1.relu")
    writer = GraphWriter(model.graph, origin="elsewhere")
    writer.op("Clip", [relu.inputs[0], writer.constant(np.float32(0), "low")], "clipped", instead_of=relu)
    made = writer.nodes[0]
    assert (made.name, made.metadata_props["note"], module_of(made)) == ("relu_7", "mine", "layer1.relu")


# Protects graphs of every opset: the axes of a reduction are an attribute in one and an input in the next.
@pytest.mark.parametrize(("opset", "inputs"), [(17, 1), (18, 2)])
def test_reductions_are_written_for_the_graphs_own_opset(opset: int, inputs: int) -> None:
    model = graph(TEXT, opset=opset)
    x = model.graph.inputs[0]
    expected = FEEDS["x"].max(axis=(2, 3), keepdims=True)
    writer = GraphWriter(model.graph)
    new = writer.reduce("ReduceMax", x, [2, 3], "largest", keepdims=True)
    writer.commit(model.graph.outputs[0], new)
    model.graph.outputs[0].shape = ir.Shape([1, 2, 1, 1])
    assert len(model.graph[0].inputs) == inputs
    np.testing.assert_array_equal(run(model, FEEDS), expected)


def test_an_input_cannot_be_replaced() -> None:
    model = graph(TEXT)
    writer = GraphWriter(model.graph)
    with pytest.raises(ValueError, match="no node makes 'x'"):
        writer.commit(model.graph.inputs[0], writer.op("Neg", [model.graph.inputs[0]], "out"))
