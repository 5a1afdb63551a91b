from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixrt.engines.tensorrt.rtx.space_to_depth import SpaceToDepth
from radixrt.export.graph.equivalence import Proof
from radixrt.export.graph.origin import module_of
from radixrt.export.passes.conv_shape import ConvShape
from tests.networks.convolutions import clone, conv_model, run, whole


def stem(kernel: tuple[int, int] = (3, 3), pads: tuple[int, int, int, int] = (1, 1, 1, 1), **how: object) -> ConvShape:
    given = {"batch": 2, "in_channels": 3, "out_channels": 4, "groups": 1, "stride": (2, 2), "height": 10, "width": 12}
    return ConvShape(kernel=kernel, pads=pads, **(given | how))  # type: ignore[arg-type]


# Whole numbers: the folded convolution must give the very same ones, whatever the kernel and its padding.
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.tuples(st.integers(4, 7), st.integers(4, 7)),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_folded_convolution_is_equal(
    kernel: tuple[int, int], pads: tuple[int, int, int, int], half: tuple[int, int], bias: bool
) -> None:
    model = conv_model(stem(kernel, pads, height=2 * half[0], width=2 * half[1]), bias=bias)
    x = whole(np.random.default_rng(6), 2, 3, 2 * half[0], 2 * half[1])
    want = run(model, x)
    result = SpaceToDepth()(model)
    assert result.modified and result.refused == ()
    assert [node.op_type for node in model.graph] == ["SpaceToDepth", "Conv"]
    np.testing.assert_array_equal(run(model, x), want)


def test_origin_weights_and_an_open_batch() -> None:
    model = conv_model(stem((7, 7), (3, 3, 3, 3)), dynamic=True)
    SpaceToDepth()(model)
    fold, conv = model.graph
    assert [module_of(node) for node in (fold, conv)] == ["layer1.0.conv2"] * 2
    assert sorted(model.graph.initializers) == ["b", "w.folded"]
    assert list(fold.outputs[0].shape or ())[1:] == [12, 5, 6]
    assert str(next(iter(fold.outputs[0].shape or ()))) == "batch"


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(stem(stride=(1, 1)), id="stride 1"),
        pytest.param(stem(height=9), id="an odd height"),
        pytest.param(stem(in_channels=8), id="channels enough as they are"),
        pytest.param(stem(in_channels=4, groups=2), id="groups"),
        pytest.param(stem(dilation=(2, 2)), id="dilation"),
    ],
)
def test_lookalikes_stay(shape: ConvShape) -> None:
    model = conv_model(shape)
    assert not SpaceToDepth()(model).modified
    assert [node.op_type for node in model.graph] == ["Conv"]


def test_a_failed_proof_is_undone() -> None:
    model = conv_model(stem())
    x = whole(np.random.default_rng(6), 2, 3, 10, 12)
    want = run(clone(model), x)
    result = SpaceToDepth(prove=lambda *_: Proof(1.0, "wrong"))(model)
    assert not result.modified
    assert [refusal.reason for refusal in result.refused] == ["the image stays unfolded: wrong"]
    assert sorted(model.graph.initializers) == ["b", "w"]
    np.testing.assert_array_equal(run(model, x), want)
