from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixrt.engines.registry import get
from radixrt.engines.tensorrt.rtx.join_shortcut import JoinShortcut
from radixrt.export.graph.equivalence import Proof
from radixrt.export.graph.origin import module_of
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.spec import Precision
from tests.networks.convolutions import SCOPES, activation, clone, constant, model_of, whole


def tail(
    *,
    wide: int = 3,
    narrow: int = 2,
    outer: int = 5,
    size: tuple[int, int] = (6, 8),
    main: tuple[int, int, int] | None = (3, 2, 1),
    short: tuple[int, int, int] | None = (2, 2, 0),
    short_stride: int = 1,
    counted: bool = True,
    bias: bool = True,
    maker: str = "Mul",
    tap: str = "",
    swapped: bool = False,
) -> ir.Model:
    """The end of a downsampling block: gated map and shortcut, each averaged (kernel, stride, pad) and convolved."""
    rng = np.random.default_rng(4)
    x, u = activation("x", [2, narrow, *size]), activation("u", [2, wide, *size])
    nodes: list[ir.Node] = []

    def op(kind: str, inputs: list[ir.Value], name: str, **attributes: int | list[int]) -> ir.Value:
        value = ir.Value(name=name, type=u.type)
        nodes.append(ir.node(kind, inputs, attributes, outputs=[value], name=f"node_{name}"))
        return value

    gate = constant("gate", whole(rng, 1, wide, 1, 1))
    if maker == "Conv":
        data = op("Conv", [u, constant("w0", whole(rng, wide, wide, 1, 1))], "gated")
    else:
        data = op(maker, [u, gate], "gated")
    ends = []
    for name, value, window, channels in (("main", data, main, wide), ("short", x, short, narrow)):
        stride = short_stride if name == "short" else 1
        if window is not None:
            kernel, step, pad = window
            value = op(
                "AveragePool", [value], f"{name}_mean", kernel_shape=[kernel] * 2, strides=[step] * 2, pads=[pad] * 4,
                count_include_pad=int(counted),
            )  # fmt: skip
        weights = [constant(f"{name}_w", whole(rng, outer, channels, 1, 1))]
        weights += [constant(f"{name}_b", whole(rng, outer))] if bias else []
        ends.append(op("Conv", [value, *weights], name, strides=[stride] * 2))
        nodes[-1].metadata_props[SCOPES] = f"['', 'layer2.0', 'layer2.0.{name}', 'conv2d']"
    y = op("Add", ends[::-1] if swapped else ends, "logits")
    model = model_of([x, u], [y], nodes)
    if tap:
        model.graph.outputs.append(next(v for node in nodes for v in node.outputs if v.name == tap))
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), strict_mode=True)
    return ir.from_proto(proto)


def both(model: ir.Model) -> list[np.ndarray]:
    import onnxruntime as ort

    rng = np.random.default_rng(5)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    return [np.asarray(value) for value in session.run(None, feeds)]


# The joined convolution must give the sum's numbers for every size, window and stride, bias or not.
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from([((3, 2, 1), (2, 2, 0), 1), (None, None, 1), ((3, 2, 1), None, 2), ((2, 2, 0), (3, 2, 1), 1)]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_joined_convolution_is_equal(half: tuple[int, int], how: tuple, bias: bool, swapped: bool) -> None:
    main, short, stride = how
    size = (2 * half[0], 2 * half[1])
    model = tail(size=size, main=main, short=short, short_stride=stride, bias=bias, swapped=swapped)
    want = both(model)
    result = JoinShortcut()(model)
    assert result.modified and result.refused == () and result.max_abs_err < 1e-6
    operators = [node.op_type for node in model.graph]
    assert operators.count("Conv") == 1 and "AveragePool" not in operators
    np.testing.assert_allclose(both(model)[0], want[0], rtol=1e-5, atol=1e-5)


# Reports speak of modules, and a weight that nothing reads any more would still be shipped.
def test_origin_and_weights() -> None:
    model = tail()
    JoinShortcut()(model)
    (conv,) = (node for node in model.graph if node.op_type == "Conv")
    assert module_of(conv) == "layer2.0.main"
    read = {value for node in model.graph for value in node.inputs if value is not None}
    assert set(model.graph.initializers.values()) <= read


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(tail(maker="Conv"), id="a convolution wrote the map: the Concat would copy it"),
        pytest.param(tail(main=None, short=None, narrow=5), id="the shortcut's input is as wide as its output"),
        pytest.param(tail(counted=False), id="windows at the edge divide by fewer pixels"),
        pytest.param(tail(tap="short"), id="the shortcut is read elsewhere"),
        pytest.param(tail(tap="gated"), id="the gated map is read elsewhere"),
        pytest.param(tail(outer=5, main=(6, 1, 0), short=(6, 1, 0), size=(8, 8)), id="a window of 36 pixels"),
    ],
)
def test_lookalikes_stay(model: ir.Model) -> None:
    before = [node.op_type for node in model.graph]
    assert not JoinShortcut()(model).modified
    assert [node.op_type for node in model.graph] == before


def test_a_failed_proof_is_undone() -> None:
    model = tail()
    want, names = both(clone(model)), sorted(model.graph.initializers)
    result = JoinShortcut(prove=lambda *_: Proof(1.0, "wrong"))(model)
    assert not result.modified
    assert [refusal.reason for refusal in result.refused] == ["the shortcut's convolution stays apart: wrong"]
    assert sorted(model.graph.initializers) == names
    np.testing.assert_array_equal(both(model)[0], want[0])


# On a CPU the pooling is the faster spelling; in INT8 each term of the sum would get a scale of its own.
@pytest.mark.parametrize(
    ("target", "precision", "joined"),
    [
        ("tensorrt-rtx", Precision.FP16, True),
        ("tensorrt-rtx", Precision.INT8, False),
        ("tensorrt", Precision.FP16, False),
        ("onnxruntime", Precision.FP32, False),
    ],
)
def test_only_where_the_builder_generates_code(target: str, precision: Precision, joined: bool) -> None:
    model, _ = rewrite(tail(), RewriteOptions(target_passes=get(target).passes(precision)))
    assert ("Concat" in {node.op_type for node in model.graph}) == joined
