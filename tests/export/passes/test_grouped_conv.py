from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixrt.export.passes.conv_shape import (
    DENSE,
    KEEP,
    SPLIT,
    ChooseForm,
    ConvShape,
    Form,
    block_diagonal,
    candidates,
    merge_form,
    read_shape,
)
from radixrt.export.passes.grouped_conv import GroupedConv
from tests.networks.convolutions import SCOPES, activation, clone, constant, conv_model, model_of, run, whole


def always(form: Form) -> ChooseForm:
    return lambda shape: (form, "asked for")


@st.composite
def grouped_shapes(draw: st.DrawFn) -> ConvShape:
    groups = draw(st.sampled_from([2, 3, 4, 6, 8]))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return ConvShape(
        batch=draw(st.integers(1, 2)),
        in_channels=groups * draw(st.integers(2, 4)),
        out_channels=groups * draw(st.integers(1, 4)),
        groups=groups,
        kernel=kernel,
        stride=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        pads=tuple(draw(st.integers(0, 2)) for _ in range(4)),  # type: ignore[arg-type]
        height=draw(st.integers(5, 9)),
        width=draw(st.integers(5, 9)),
    )


# Whatever the shape, every form must compute the very same numbers: a form is chosen for speed alone.
@given(grouped_shapes(), st.booleans(), st.booleans(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_form_is_exact(shape: ConvShape, bias: bool, dynamic: bool, seed: int) -> None:
    original = conv_model(shape, bias=bias, seed=seed, dynamic=dynamic)
    x = whole(np.random.default_rng(seed + 1), shape.batch, shape.in_channels, shape.height or 0, shape.width or 0)
    want = run(original, x)
    every_merge = [Form("merge", f) for f in range(2, shape.groups) if shape.groups % f == 0]
    for form in [KEEP, SPLIT, DENSE, *every_merge]:
        result = GroupedConv(always(form))(clone(original))
        model = result.model
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        np.testing.assert_array_equal(run(model, x), want, err_msg=str(form))
        assert result.modified == (form != KEEP)
        assert [r.form for r in result.grouped_convs] == [str(form)]


# The shape that the chooser sees must be the graph's own, or a measured choice would be about another convolution.
@given(grouped_shapes())
@settings(max_examples=30, deadline=None)
def test_chooser_sees_the_graphs_shape(shape: ConvShape) -> None:
    seen: list[ConvShape] = []

    def chooser(got: ConvShape) -> tuple[Form, str]:
        seen.append(got)
        return KEEP, "looking"

    GroupedConv(chooser, batch=shape.batch)(conv_model(shape, dynamic=True))
    assert seen == [shape]


SHAPE = ConvShape(1, 16, 16, 4, (3, 3), pads=(1, 1, 1, 1), height=6, width=6)


# Engines join an activation to the convolution before it, not to a Concat: each group gets its own.
@pytest.mark.parametrize("bounds", [(), (-2.0, 7.0)], ids=["relu", "clip"])
def test_a_split_takes_the_activation_along(bounds: tuple[float, ...]) -> None:
    model, kind = conv_model(SHAPE), "Clip" if bounds else "Relu"
    limits = [constant(f"bound{i}", np.asarray(bound, np.float32)) for i, bound in enumerate(bounds)]
    for limit in limits:
        model.graph.register_initializer(limit)
    conv = model.graph[0].outputs[0]
    behind = ir.Node("", kind, [conv, *limits], outputs=[activation("activated", list(conv.shape or []))])  # type: ignore[arg-type]
    model.graph.append(behind)
    model.graph.outputs[0] = behind.outputs[0]
    x = whole(np.random.default_rng(5), 1, 16, 6, 6)
    want = run(model, x)
    changed = GroupedConv(always(SPLIT))(clone(model)).model
    assert [node.op_type for node in changed.graph][-1] == "Concat"
    assert [node.op_type for node in changed.graph].count(kind) == 4
    np.testing.assert_array_equal(run(changed, x), want)


# Later stages speak of modules: no form may lose where a node came from, and the record must name it.
@pytest.mark.parametrize("form", [SPLIT, DENSE, Form("merge", 2)])
def test_origin_is_kept(form: Form) -> None:
    result = GroupedConv(always(form))(conv_model(SHAPE))
    assert [(record.name, record.groups) for record in result.grouped_convs] == [("layer1.0.conv2", 4)]
    model = result.model
    for node in model.graph:
        assert "layer1.0.conv2" in node.metadata_props[SCOPES]
        assert node.name
    assert len({node.name for node in model.graph}) == len(model.graph)


# Old weights that stay behind would double the deploy graph.
@pytest.mark.parametrize("form", [SPLIT, DENSE, Form("merge", 2)])
def test_old_weights_are_dropped(form: Form) -> None:
    model = GroupedConv(always(form))(conv_model(SHAPE)).model
    read = {value.name for node in model.graph for value in node.inputs if value is not None}
    assert set(model.graph.initializers) <= read


# Depthwise convolutions have kernels of their own everywhere, also with a channel multiplier; dense ones have no form.
@pytest.mark.parametrize(("groups", "out"), [(16, 16), (16, 32), (1, 16)])
def test_depthwise_and_dense_are_never_asked_about(groups: int, out: int) -> None:
    shape = ConvShape(1, 16, out, groups, (3, 3), pads=(1, 1, 1, 1), height=6, width=6)

    def chooser(_: ConvShape) -> tuple[Form, str]:
        raise AssertionError("asked")

    result = GroupedConv(chooser)(conv_model(shape))
    assert not result.grouped_convs
    assert not result.modified


# A weight computed at run time has no block-diagonal constant: it stays, and the report says why.
def test_a_weight_that_is_no_constant_is_refused() -> None:
    x, w = activation("input", [1, 8, 5, 5]), activation("w", [8, 4, 3, 3])
    y = activation("logits", [1, 8, 3, 3])
    node = ir.Node("", "Conv", [x, w], [ir.AttrInt64("group", 2)], outputs=[y], name="conv")
    result = GroupedConv(always(DENSE))(model_of([x, w], [y], [node]))
    assert not result.modified
    (record,) = result.grouped_convs
    assert record.form == "keep"
    assert "weight is not a constant" in record.why


# Two convolutions may share one weight: each must keep its own result.
def test_shared_weight_is_rewritten_for_both() -> None:
    rng = np.random.default_rng(3)
    w = constant("w", whole(rng, 8, 4, 3, 3))
    x, mid, y = (activation(n, [1, 8, s, s]) for n, s in (("input", 7), ("mid", 5), ("logits", 3)))
    nodes = [
        ir.Node("", "Conv", [a, w], [ir.AttrInt64("group", 2)], outputs=[b], name=n)
        for a, b, n in ((x, mid, "first"), (mid, y, "second"))
    ]
    original = model_of([x], [y], nodes)
    data = whole(rng, 1, 8, 7, 7)
    want = run(original, data)
    forms = iter([DENSE, SPLIT])
    model = GroupedConv(lambda shape: (next(forms), "one of each"))(clone(original)).model
    np.testing.assert_array_equal(run(model, data), want)


# auto_pad is resolved for the chooser and left to the runtime in the graph.
@pytest.mark.parametrize(
    ("auto", "pads"), [("SAME_UPPER", (0, 0, 1, 1)), ("SAME_LOWER", (1, 1, 0, 0)), ("VALID", (0,) * 4)]
)
def test_auto_pad(auto: str, pads: tuple[int, ...]) -> None:
    model = conv_model(ConvShape(1, 8, 8, 2, (3, 3), stride=(2, 2), height=8, width=8))
    node = model.graph[0]
    del node.attributes["pads"]
    node.attributes["auto_pad"] = ir.AttrString("auto_pad", auto)
    shape = read_shape(node)
    assert isinstance(shape, ConvShape)
    assert shape.pads == pads


def test_merge_form_reaches_the_width() -> None:
    resnext = ConvShape(1, 128, 128, 32, (3, 3), height=56, width=56)
    assert merge_form(resnext, 4) == KEEP
    assert merge_form(resnext, 16) == Form("merge", 4)
    assert merge_form(resnext, 100) == DENSE
    assert candidates(resnext) == (KEEP, SPLIT, Form("merge", 4), Form("merge", 8), Form("merge", 16), DENSE)
    assert candidates(ConvShape(1, 64, 128, 2, (3, 3))) == (KEEP, SPLIT, DENSE)


def test_block_diagonal_is_zero_outside_the_blocks() -> None:
    weight = np.ones((4, 2, 1, 1), np.float32)
    wide = block_diagonal(weight, groups=2, factor=2)
    np.testing.assert_array_equal(wide[:, :, 0, 0], [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
