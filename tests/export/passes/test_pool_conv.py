from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from radixrt.export.passes.pool_conv import PoolConv, PoolConvShape, PoolForm
from tests.networks.convolutions import SCOPES, activation, clone, constant, model_of, run, whole


def to_conv(shape: PoolConvShape) -> tuple[PoolForm, str]:
    return "conv", "asked for"


def net(
    size: tuple[int, int] = (8, 8),
    *,
    kernel: tuple[int, int] = (2, 2),
    stride: tuple[int, int] = (2, 2),
    pads: tuple[int, ...] = (0, 0, 0, 0),
    include: bool = False,
    ceil: bool = False,
    point_stride: int = 1,
    point_pads: tuple[int, ...] = (0, 0, 0, 0),
    groups: int = 1,
    taps: bool = False,
    unit: float = 1.0,
) -> ir.Model:
    rng = np.random.default_rng(7)
    x = activation("input", [1, 4, *size])
    p, y = ir.Value(name="pooled", type=x.type), activation("logits", [1, 6, None, None])
    pool = ir.Node(
        "",
        "AveragePool",
        [x],
        [
            ir.AttrInt64s("kernel_shape", kernel),
            ir.AttrInt64s("strides", stride),
            ir.AttrInt64s("pads", pads),
            ir.AttrInt64("count_include_pad", int(include)),
            ir.AttrInt64("ceil_mode", int(ceil)),
        ],
        outputs=[p],
        name="pool",
    )
    weights = [constant("w", whole(rng, 6, 4 // groups, 1, 1) * np.float32(unit)), constant("b", whole(rng, 6))]
    attributes = [
        ir.AttrInt64("group", groups),
        ir.AttrInt64s("strides", (point_stride, point_stride)),
        ir.AttrInt64s("pads", point_pads),
    ]
    scopes = {SCOPES: "['', 'layer2.0.downsample', 'layer2.0.downsample.1', 'conv2d']"}
    conv = ir.Node("", "Conv", [p, *weights], attributes, outputs=[y], name="conv", metadata_props=scopes)
    return model_of([x], [y, p] if taps else [y], [pool, conv])


def image(size: tuple[int, int]) -> NDArray[np.float32]:
    return whole(np.random.default_rng(1), 1, 4, *size)


# Each form must give the pair's numbers, or the pair must be refused, whatever the sizes and the padding.
@given(
    st.sampled_from(["depthwise", "conv"]),
    st.tuples(st.integers(6, 11), st.integers(6, 11)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 1)] * 4),
    st.booleans(),
    st.booleans(),
    st.integers(1, 2),
    st.sampled_from([1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_pair_and_convolution_agree(
    form: PoolForm,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, ...],
    include: bool,
    ceil: bool,
    point_stride: int,
    groups: int,
) -> None:
    pads = tuple(
        min(p, k - 1) for p, k in zip(pads, kernel * 2, strict=True)
    )  # padding below the kernel's size, as ONNX asks
    original = net(
        size,
        kernel=kernel,
        stride=stride,
        pads=pads,
        include=include,
        ceil=ceil,
        point_stride=point_stride,
        groups=groups,
        unit=float(kernel[0] * kernel[1]),
    )
    want = run(original, image(size))
    result = PoolConv(lambda shape: (form, "asked for"))(clone(original))
    model = result.model
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    got = run(model, image(size))
    assert got.shape == want.shape
    # The pair's average is rounded (a ninth is no binary fraction), so a few units in the last place remain.
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    assert result.modified == (not result.refused)
    assert len(result.pool_convs) + len(result.refused) == 1


# ResNeSt's avd pooling (3x3, stride 2, padding counted) and ResNet-D's downsample pooling (2x2, stride 2, ceil_mode).
@pytest.mark.parametrize(
    "model",
    [net(kernel=(3, 3), pads=(1, 1, 1, 1), include=True), net(ceil=True), net(ceil=True, point_stride=2)],
    ids=["avd", "downsample", "strided"],
)
def test_known_pairs_become_one_node(model: ir.Model) -> None:
    result = PoolConv(to_conv)(model)
    assert result.modified
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert result.pool_convs[0].name == "layer2.0.downsample.1"
    assert "layer2.0.downsample.1" in model.graph[0].metadata_props[SCOPES]
    assert set(model.graph.initializers) == {"w_avg3x3", "b"} or set(model.graph.initializers) == {"w_avg2x2", "b"}


# Each look-alike computes something else at the edge, or is read by somebody: it must stay, with the reason told.
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (net(kernel=(3, 3), pads=(1, 1, 1, 1)), "padding is not counted"),
        (net((7, 7), ceil=True), "ceil_mode"),
        (net(point_pads=(1, 1, 1, 1)), "pads on its own"),
        (net(taps=True), "read elsewhere"),
    ],
)
def test_lookalikes_are_refused(model: ir.Model, reason: str) -> None:
    before = ir.to_proto(model).SerializeToString()
    result = PoolConv(to_conv)(model)
    assert not result.modified
    assert not result.pool_convs
    assert reason in result.refused[0].reason
    assert result.refused[0].node == "layer2.0.downsample.1"
    assert ir.to_proto(model).SerializeToString() == before


# The pair stays where it is faster: exactness alone must not decide.
def test_the_chooser_decides() -> None:
    result = PoolConv(lambda shape: ("pool", "1.00x, within noise"))(net())
    assert not result.modified
    assert result.pool_convs[0].form == "pool"
    assert [node.op_type for node in result.model.graph] == ["AveragePool", "Conv"]
