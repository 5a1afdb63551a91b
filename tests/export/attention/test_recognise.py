from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from radixrt.export.attention.block import AttentionBlock
from radixrt.export.attention.interpret import interpret
from radixrt.export.attention.recognise import Recognised, recognise
from radixrt.export.graph.session import open_session
from radixrt.export.graph.shapes import Sizes, concretise
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from tests.networks.attention_blocks import Net, SelectiveKernel, SplitAttention, SqueezeExcite, StackedFirst
from tests.networks.exported import export, images, run
from tests.networks.onnx_text import graph

FC = "<float[4,8,1,1] w1, float[8,4,1,1] w2>"
SE = """
  s = GlobalAveragePool(x)
  h = Conv(s, w1)
  z = Relu(h)
  a = Conv(z, w2)
  g = Sigmoid(a)
"""


def look(model) -> Recognised:  # type: ignore[no-untyped-def]
    return recognise(model.graph, interpret(model.graph, concretise(model.graph, Sizes())))


def only(module: nn.Module, channels: int = 8, **how: object) -> AttentionBlock:
    """The one block of a small network, after checking that rewriting it keeps the network's output."""
    model = export(Net(module, channels), **how)  # type: ignore[arg-type]
    found = look(model)
    assert [r.reason for r in found.refused] == []
    (block,) = found.blocks
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, RewriteOptions())
    assert len(report.attention_blocks) == 1
    np.testing.assert_allclose(run(model, feeds), before, rtol=1e-4, atol=1e-5)
    return block


# Protects recognition by structure: any spelling of split attention is one block with the right radix and cardinality.
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    radix=st.sampled_from([1, 2, 3, 4]),
    groups=st.sampled_from([1, 2, 4]),
    spelling=st.sampled_from(["reduce", "split", "chunk", "slice", "map5d"]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    norm=st.booleans(),
    height=st.integers(5, 13),
    dynamic=st.booleans(),
    opset=st.sampled_from([13, 15, 17, 20]),
)
def test_split_attention_in_any_spelling(
    radix: int,
    groups: int,
    spelling: str,
    stride: int,
    dilation: int,
    norm: bool,
    height: int,
    dynamic: bool,
    opset: int,
) -> None:
    channels = 12 if radix == 3 else 8
    module = SplitAttention(channels, radix, groups, spelling=spelling, stride=stride, dilation=dilation, norm=norm)
    block = only(module, channels, size=(1, 3, height, 9), dynamic=dynamic, opset=opset)
    assert (block.radix, block.cardinality) == (radix, groups)
    assert block.kind == ("se" if radix == 1 else "split")
    assert block.name == "block"
    if radix > 1:
        assert block.whole is not None and [p.value for p in block.pooled] == [block.whole]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    branches=st.sampled_from([2, 3]),
    groups=st.sampled_from([1, 4]),
    stride=st.sampled_from([1, 2]),
    spelling=st.sampled_from(["lists", "joint", "chain"]),
    channels=st.sampled_from([4, 8, 12]),
    dynamic=st.booleans(),
)
def test_selective_kernel_in_any_spelling(
    branches: int, groups: int, stride: int, spelling: str, channels: int, dynamic: bool
) -> None:
    module = SelectiveKernel(channels, branches, groups=groups, stride=stride, spelling=spelling)
    model = export(Net(module, channels), dynamic=dynamic)
    found = look(model)
    assert [r.reason for r in found.refused] == []
    (block,) = found.blocks
    assert (block.kind, block.radix, block.gate.kind) == ("sk", branches, "Softmax")
    feeds = images(model)
    before = run(model, feeds)
    np.testing.assert_allclose(run(rewrite(model, RewriteOptions())[0], feeds), before, rtol=1e-4, atol=1e-5)


# Protects a batch that is not the first axis, also where it is of size one and looks like any other such axis.
@pytest.mark.parametrize("batch", [1, 2])
def test_branches_stacked_before_the_batch(batch: int) -> None:
    block = only(StackedFirst(8), size=(batch, 3, 6, 7))
    assert (block.kind, block.radix) == ("sk", 3)


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU, nn.Hardswish, nn.LeakyReLU, nn.ReLU6])
@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid])
def test_squeeze_excite_activations(act: type[nn.Module], gate: type[nn.Module]) -> None:
    block = only(SqueezeExcite(8, act=act, gate=gate, linear=False, norm=True))
    kinds = {"ReLU": "Relu", "SiLU": "Swish", "Hardswish": "HardSwish", "LeakyReLU": "LeakyRelu", "ReLU6": "Clip"}
    assert block.hidden is not None and block.hidden[1].kind == kinds[act.__name__]
    assert block.gate.kind == {"Sigmoid": "Sigmoid", "Hardsigmoid": "HardSigmoid"}[gate.__name__]


@pytest.mark.parametrize("squeeze", ["avg", "max", "mean", "amax", "view", "sum"])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("expand", [True, False])
def test_squeeze_excite_squeezes(squeeze: str, linear: bool, expand: bool) -> None:
    block = only(SqueezeExcite(8, squeeze=squeeze, linear=linear, expand=expand, bias=linear))
    assert [p.kind for p in block.pooled] == ["max" if squeeze in ("max", "amax") else "avg"]


# Protects hand-written hard gates, which old exporters and home-made modules spell out.
@pytest.mark.parametrize(
    "gate",
    [
        "b = Add(a, three)\n c = Clip(b, zero, six)\n g = Div(c, six)",
        "b = Add(a, three)\n c = Clip(b, zero, six)\n g = Mul(c, sixth)",
        "g = HardSigmoid<alpha=0.16666667, beta=0.5>(a)",
    ],
)
def test_hard_sigmoid_spelled_out(gate: str) -> None:
    model = graph(
        f"""se (float[1,8,6,6] x) => (float[1,8,6,6] y)
        <float[4,8,1,1] w1, float[8,4,1,1] w2, float three = {{3.0}}, float zero = {{0.0}}, float six = {{6.0}},
         float sixth = {{0.16666667}}> {{ {SE.replace("g = Sigmoid(a)", gate)}
          y = Mul(x, g)
        }}"""
    )
    (block,) = look(model).blocks
    assert block.gate.kind == "HardSigmoid"
    np.testing.assert_allclose(_product(block), (1 / 6, 0.5), rtol=1e-6)


def _product(block: AttentionBlock) -> tuple[float, float]:
    """Slope and offset of the gate in terms of W2 z, whichever of the two layers holds the shift."""
    alpha, beta = block.gate.params
    return alpha, beta + alpha * float(block.excite.bias[0])


# Protects channel attention with both squeezes (CBAM): the shared FCs become one pair with stacked weights.
def test_two_squeezes_share_their_layers() -> None:
    model = graph(
        f"""cbam (float[2,8,5,5] x) => (float[2,8,5,5] y) {FC} {{
          s0 = GlobalAveragePool(x)
          s1 = GlobalMaxPool(x)
          h0 = Conv(s0, w1)
          h1 = Conv(s1, w1)
          z0 = Relu(h0)
          z1 = Relu(h1)
          a0 = Conv(z0, w2)
          a1 = Conv(z1, w2)
          a = Add(a0, a1)
          g = Sigmoid(a)
          y = Mul(g, x)
        }}"""
    )
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, RewriteOptions())
    assert [b.kind for b in report.attention_blocks] == ["se"]
    np.testing.assert_allclose(run(model, feeds), before, rtol=1e-5, atol=1e-6)


# Protects SK with a gate and its complement, which needs no softmax to be one.
def test_gate_and_its_complement() -> None:
    model = graph(
        f"""sk (float[1,8,6,6] u, float[1,8,6,6] v) => (float[1,8,6,6] y)
        <float[4,8,1,1] w1, float[8,4,1,1] w2, float one = {{1.0}}> {{
          x = Add(u, v) {SE}
          r = Sub(one, g)
          p = Mul(u, g)
          q = Mul(v, r)
          y = Add(p, q)
        }}""".replace("float one = {1.0}", "float[1,1,1,1] one = {1.0}")
    )
    (block,) = look(model).blocks
    assert (block.kind, block.radix, block.gate.kind) == ("sk", 2, "Softmax")


# Protects gates with a factor or an offset (NFNet's gain, x + x * g, inverted gates), before the product or behind it:
# the tiny tensor takes them, and no pass over the feature map is left for them.
@pytest.mark.parametrize(
    ("gated", "scale", "shift"),
    [
        ("g0 = Mul(two, g)\n y = Mul(x, g0)", 2.0, 0.0),
        ("g0 = Add(g, two)\n y = Mul(g0, x)", 1.0, 2.0),
        ("g0 = Sub(two, g)\n y = Mul(x, g0)", -1.0, 2.0),
        ("v = Mul(x, g)\n t = Mul(v, two)\n y = Mul(half, t)", 1.0, 0.0),
        ("v = Mul(x, g)\n y = Mul(each, v)", 3.0, 0.0),
        ("v = Mul(x, g)\n y = Mul(v, nothing)", 1.0, 0.0),
    ],
)
def test_gates_with_a_factor_or_an_offset(gated: str, scale: float, shift: float) -> None:
    model = graph(
        "g (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[4,8,1,1] w1, float[8,4,1,1] w2,"
        " float two = {2.0}, float half = {0.5}, float nothing = {0.0},"
        " float[8,1,1] each = {3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.0}>"
        f" {{ {SE} {gated} }}"
    )
    (block,) = look(model).blocks
    assert block.gate.scale is not None and block.gate.shift is not None
    assert (block.gate.scale[0], block.gate.shift[0]) == (scale, shift)
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, RewriteOptions())
    assert report.refused == [] and len(report.attention_blocks) == 1
    np.testing.assert_allclose(run(model, feeds), before, rtol=1e-5, atol=1e-6)
    reads = [node for node in model.graph if node.op_type == "Mul" and node.inputs[0] is model.graph.inputs[0]]
    assert [node.outputs[0].is_graph_output() for node in reads] == ["nothing" not in gated]


# Protects against rewriting look-alikes. Each is refused with its reason, and the graph is left as it was.
LOOK_ALIKES = {
    "softmax over channels": (
        f"g3 (float[1,8,6,6] x) => (float[1,8,6,6] y) {FC} {{ "
        + SE.replace("Sigmoid(a)", "Softmax<axis=1>(a)")
        + " y = Mul(x, g) }",
        "another axis than the radix",
    ),
    "tanh gate": (
        f"g5 (float[1,8,6,6] x) => (float[1,8,6,6] y) {FC} {{ " + SE.replace("Sigmoid", "Tanh") + " y = Mul(x, g) }",
        "its gate is Tanh",
    ),
    "gates of two branches, one scaled": (
        "g6 (float[1,8,6,6] x, float[1,8,6,6] v) => (float[1,8,6,6] y)"
        " <float[4,8,1,1] w1, float[8,4,1,1] w2, float[8,4,1,1] w3, float[1,1,1,1] two = {2.0}> {"
        f"{SE} g0 = Mul(g, two)\n b = Conv(z, w3)\n g1 = Sigmoid(b)\n p = Mul(x, g0)\n q = Mul(v, g1)\n"
        " y = Add(p, q) }",
        "scaled, shifted or negated",
    ),
    "an operator that is not understood": (
        f"g7 (float[1,8,6,6] x) => (float[1,8,6,6] y) {FC} {{ {SE} c = CumSum(g, one)\n y = Mul(x, c) }}",
        "CumSum between pool and gate",
    ),
    "a convolution across channels (ECA)": (
        "g10 (float[1,8,6,6] x) => (float[1,8,6,6] y)"
        " <float[1,1,3] w2, int64[3] row = {0, 1, 8}, int64[4] cube = {0, 8, 1, 1}, int64[4] all = {1, 8, 6, 6}> {"
        " s = GlobalAveragePool(x) r = Reshape(s, row) a = Conv<pads=[1, 1]>(r, w2) g = Sigmoid(a)"
        " c = Reshape(g, cube) e = Expand(c, all) y = Mul(x, e) }",
        "slides over the channels (ECA)",
    ),
    "a map of one axis of space": (
        f"g14 (float[1,8,36] x) => (float[1,8,36] y) <float[4,8,1] w1, float[8,4,1] w2> {{{SE} y = Mul(x, g) }}",
        "its feature map has one axis of space, not two",
    ),
    "two functions for a gate": (
        "g15 (float[1,8,6,6] x) => (float[1,8,6,6] y)"
        " <float[4,8,1,1] w1, float[8,4,1,1] w2, float low = {0.1}, float high = {0.9}> {"
        f"{SE} c = Clip(g, low, high) y = Mul(x, c) }}",
        "two activations follow one another at its gate (the first is Sigmoid)",
    ),
    "a squared ReLU": (
        "g16 (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[4,8,1,1] w1, float[8,4,1,1] w2, float two = {2.0}> {"
        f"{SE.replace('a = Conv(z, w2)', 'q = Pow(z, two) a = Conv(q, w2)')} y = Mul(x, g) }}",
        "two activations follow one another between its FCs (the first is Relu)",
    ),
    "channels last": (
        "g11 (float[1,6,6,8] x) => (float[1,6,6,8] y) <float[8,4] w1, float[4,8] w2, int64[2] over = {1, 2}> {"
        " s = ReduceMean(x, over) h = MatMul(s, w1) z = Relu(h) a = MatMul(z, w2) g = Sigmoid(a) y = Mul(x, g) }",
        "its pool runs over axes 1 and 2 of N x 6 x 6 x 8, which is space only in a channels-last map",
    ),
    "a pool over channels and width": (
        "g13 (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[6,4] w1, float[4,6] w2, int64[2] over = {1, 3}> {"
        " s = ReduceMean<keepdims=0>(x, over) h = MatMul(s, w1) z = Relu(h) a = MatMul(z, w2) g = Sigmoid(a)"
        " y = Mul(x, g) }",
        "its pool runs over axes 1 and 3 of N x 8 x 6 x 6, which is not space",
    ),
    "a learned sum instead of a pool (GC)": (
        "g12 (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,6,6] w2> {"
        " s = Conv(x, w2) g = Sigmoid(s) y = Mul(x, g) }",
        "not made from an average or a maximum",
    ),
    "three layers": (
        "g8 (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[4,8,1,1] w1, float[8,4,1,1] w2, float[8,8,1,1] w3> {"
        f"{SE.replace('g = Sigmoid(a)', 't = Relu(a) c = Conv(t, w3) g = Sigmoid(c)')} y = Mul(x, g) }}",
        "more than two FCs",
    ),
    "no layer between pool and gate": (
        "g9 (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[4,8,1,1] w1, float[8,4,1,1] w2> {"
        " s = AveragePool<kernel_shape=[6,3], strides=[6,3]>(x)\n h = Conv(s, w1)\n z = Relu(h)\n a = Conv(z, w2)\n"
        " b = ReduceMax(a, axes)\n g = Sigmoid(b)\n y = Mul(x, g) }",
        "no FC between its pool and its gate",
    ),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_stay(name: str) -> None:
    text, reason = LOOK_ALIKES[name]
    text = text.replace("w2> {", "w2, int64 one = {1}> {", 1) if "CumSum" in text else text
    text = text.replace("w2> {", "w2, int64[2] axes = {2, 3}> {", 1) if "ReduceMax" in text else text
    model = graph(text)
    before = [(n.op_type, [v.name for v in n.inputs if v]) for n in model.graph]
    model, report = rewrite(model, RewriteOptions())
    assert report.attention_blocks == []
    assert [(n.op_type, [v.name for v in n.inputs if v]) for n in model.graph] == before
    assert report.refused and all(reason in r.reason and r.node for r in report.refused)


# Each: what stands for ``z = Relu(h)``, for ``g = Sigmoid(a)`` and for ``y = Mul(x, g)``.
SPELLINGS = {
    "the logistic formula": ("", "n = Neg(a) e = Exp(n) p = Add(one, e) g = Div(one, p)", ""),
    "its reciprocal, steeper": ("", "n = Mul(a, steep) e = Exp(n) p = Add(e, two) g = Reciprocal(p)", ""),
    "Selu": ("z = Selu(h)", "", ""),
    "Celu": ("z = Celu<alpha=0.5>(h)", "", ""),
    "Softsign": ("z = Softsign(h)", "", ""),
    "ThresholdedRelu": ("z = ThresholdedRelu<alpha=0.3>(h)", "", ""),
    "a gate that is tiled": ("", "", "t = Tile(g, tiles) y = Mul(x, t)"),
    "a gate that is resized": ("", "", "t = Resize(g, , scales) y = Mul(x, t)"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_parts_of_a_block_in_other_spellings(name: str) -> None:
    hidden, gate, product = SPELLINGS[name]
    body = f"{SE} y = Mul(x, g)".replace("z = Relu(h)", hidden or "z = Relu(h)")
    body = body.replace("g = Sigmoid(a)", gate or "g = Sigmoid(a)").replace("y = Mul(x, g)", product or "y = Mul(x, g)")
    model = graph(
        "spelled (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[4,8,1,1] w1, float[8,4,1,1] w2, float one = {1.0},"
        " float two = {2.0}, float steep = {-3.0}, int64[4] tiles = {1, 1, 6, 6},"
        " float[4] scales = {1.0, 1.0, 6.0, 6.0}>"
        f" {{ {body} }}"
    )
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, RewriteOptions())
    assert len(report.attention_blocks) == 1 and not report.refused
    np.testing.assert_allclose(run(model, feeds), before, rtol=1e-4, atol=1e-5)


SK = """
  u = Add(x, v)
  s = GlobalAveragePool(u)
  h = Conv(s, w1)
  z = Relu(h)
  a = Conv(z, w2)
  b = Conv(z, w3)
  c = Concat<axis=2>(a, b)
  g = Softmax<axis=2>(c)
  g0, g1 = Split<axis=2, num_outputs=2>(g)
  p = Mul(x, g0)
  q = Mul(v, g1)
  y = Add(p, q)
"""
_SE_Y = f"{SE} y = Mul(x, g)"
# Each: what the graph computes beside ``y``, and how many blocks are in it.
LOOKED_INTO = {
    "the pooled vector by a second head": (f"{_SE_Y} e = Conv(s, w1)", 1),
    "the gate by who draws it": (f"{_SE_Y} e = Identity(g)", 1),
    "what lies between the FCs": (f"{_SE_Y} e = Tanh(z)", 1),
    "the gate by a second map": (f"{_SE_Y} e = Mul(v, g)", 2),
    "the block's input and output": (f"{_SE_Y} e = Concat<axis=1>(x, y)", 1),
    "the weights by a second block": (
        f"{_SE_Y} s2 = GlobalAveragePool(v) h2 = Conv(s2, w1) z2 = Relu(h2) a2 = Conv(z2, w2) g2 = Sigmoid(a2)"
        " e = Mul(v, g2)",
        2,
    ),
    "one gated branch": (f"{SK} e = Relu(p)", 1),
    "the sum of the branches": (f"{SK} e = Relu(u)", 1),
    "the softmax": (f"{SK} e = Identity(g)", 1),
}


@pytest.mark.parametrize("name", LOOKED_INTO)
def test_what_others_read_of_a_block_stays(name: str) -> None:
    body, blocks = LOOKED_INTO[name]
    model = graph(
        "net (float[1,8,6,6] x, float[1,8,6,6] v) => (float[1,8,6,6] y, float[a,b,c,d] e)"
        f" <float[4,8,1,1] w1, float[8,4,1,1] w2, float[8,4,1,1] w3> {{ {body} }}"
    )
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal((1, 8, 6, 6)).astype(np.float32) for name in ("x", "v")}
    before = open_session(model, optimize=False).run(["y", "e"], feeds)
    model, report = rewrite(model, RewriteOptions())
    assert len(report.attention_blocks) == blocks and report.refused == []
    for old, new in zip(before, open_session(model, optimize=False).run(["y", "e"], feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
