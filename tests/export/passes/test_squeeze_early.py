from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixrt.export.graph.equivalence import Proof
from radixrt.export.graph.origin import module_of
from radixrt.export.passes.squeeze_early import SqueezeEarly
from tests.networks.convolutions import SCOPES, activation, clone, constant, model_of, run, whole


def bottleneck_tail(
    inner: int = 4,
    outer: int = 8,
    *,
    size: tuple[int, int] = (5, 6),
    stride: int = 1,
    pad: int = 0,
    relu: bool = False,
    tap: bool = False,
    bias: bool = True,
    reduce_mean: bool = False,
) -> ir.Model:
    """The end of an SE bottleneck: the 1x1 convolution, its pooling, one FC, and the product with the gate."""
    rng = np.random.default_rng(2)
    x = activation("input", [2, inner, *size])
    u, pooled, z, y = (ir.Value(name=n, type=x.type) for n in ("u", "pooled", "z", "logits"))
    conv_inputs = [x, constant("w3", whole(rng, outer, inner, 1, 1))] + (
        [constant("b3", whole(rng, outer))] if bias else []
    )
    attributes = [ir.AttrInt64s("strides", (stride, stride)), ir.AttrInt64s("pads", (pad,) * 4)]
    nodes = [ir.Node("", "Conv", conv_inputs, attributes, outputs=[u], name="conv3")]
    source = u
    if relu:
        source = ir.Value(name="r", type=x.type)
        nodes.append(ir.Node("", "Relu", [u], outputs=[source], name="act"))
    if reduce_mean:
        axes = constant("axes", np.asarray([2, 3], np.int64))
        nodes.append(ir.Node("", "ReduceMean", [source, axes], outputs=[pooled], name="pool"))
    else:
        nodes.append(ir.Node("", "GlobalAveragePool", [source], outputs=[pooled], name="pool"))
    fc_inputs = [pooled, constant("w1", whole(rng, outer, outer, 1, 1)), constant("b1", whole(rng, outer))]
    scopes = {SCOPES: "['', 'layer1.0.se', 'layer1.0.se.fc1', 'conv2d']"}
    nodes.append(ir.Node("", "Conv", fc_inputs, outputs=[z], name="fc1", metadata_props=scopes))
    nodes.append(ir.Node("", "Mul", [source, z], outputs=[y], name="scale"))
    y.shape = ir.Shape([2, outer, None, None])
    if tap:
        pooled.shape = ir.Shape([2, outer, 1, 1])
    return model_of([x], [y, pooled] if tap else [y], nodes)


# The move must give the very numbers for every width and size; the window's mean is the only rounding.
@given(st.integers(1, 6), st.integers(0, 6), st.tuples(st.integers(1, 7), st.integers(1, 7)), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_moved_squeeze_is_equal(inner: int, more: int, size: tuple[int, int], bias: bool) -> None:
    original = bottleneck_tail(inner, inner + more, size=size, bias=bias)
    x = whole(np.random.default_rng(3), 2, inner, *size)
    want = run(original, x)
    model = clone(original)
    result = SqueezeEarly()(model)
    assert result.modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    np.testing.assert_allclose(run(model, x), want, rtol=1e-4, atol=1e-2)
    pool = next(node for node in model.graph if node.op_type == "GlobalAveragePool")
    assert pool.inputs[0] is model.graph.inputs[0]


# The FC stays the module it was, and the weight it no longer uses must not ship.
def test_origin_and_weights() -> None:
    model = bottleneck_tail()
    SqueezeEarly()(model)
    fc = next(node for node in model.graph if node.name == "fc1")
    assert module_of(fc) == "layer1.0.se.fc1"
    assert "w1" not in model.graph.initializers
    assert "w3" in model.graph.initializers


# Each of these pools something else than a linear image of h, would read more, or would take a tensor from its reader.
@pytest.mark.parametrize(
    "model",
    [
        bottleneck_tail(stride=2),
        bottleneck_tail(pad=1),
        bottleneck_tail(relu=True),
        bottleneck_tail(tap=True),
        bottleneck_tail(inner=8, outer=4),
    ],
    ids=["strided", "padded", "activation", "read elsewhere", "wider input"],
)
def test_lookalikes_stay(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString()
    assert not SqueezeEarly()(model).modified
    assert ir.to_proto(model).SerializeToString() == before


# A move whose proof misses must be taken back, to the last weight, and reported.
def test_a_failed_proof_is_undone() -> None:
    squeeze_early = SqueezeEarly(prove=lambda *_: Proof(1.0, "before and after differ by 1"))
    model = bottleneck_tail()
    before = ir.to_proto(model).SerializeToString()
    result = squeeze_early(model)
    assert not result.modified
    assert "differ" in result.refused[0].reason
    assert ir.to_proto(model).SerializeToString() == before
