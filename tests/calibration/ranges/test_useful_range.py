"""Protects where ranges end: at what readers cannot tell apart, and nowhere else."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.table import Candidates, HistogramSummary, TensorRange
from radixrt.calibration.ranges.useful_range import with_useful_ranges
from radixrt.export.graph.facts import infer
from tests.networks.residual import images, plain

SEEN = (-20.0, 10.0)
GELU = "d = Div(x, root) e = Erf(d) f = Add(e, one) y = Mul(x, f)"


def cut(body: str) -> tuple[float, float]:
    """The ends of x's range in a graph of ``body``, which reads x, a map m, numbers root, one, alpha, and makes y."""
    text = f"""<ir_version: 8, opset_import: ["": 20]>
    g (float[1, 2, 4, 4] i, float[1, 2, 4, 4] m) => (float[1, 2, 4, 4] y)
    <float[1] root = {{1.41421356}}, float one = {{1}}, float[2, 1, 1] each = {{1, 2}}> {{ x = Neg(i) {body} }}"""
    graph = infer(ir.from_proto(onnx.parser.parse_model(text))).graph
    amax = max(-SEEN[0], SEEN[1])
    picked = Candidates(minmax=amax, percentile=amax, entropy=amax, mse=8.0)
    many = HistogramSummary(values=1, zeros=0, quantiles=(1, 1, 1, 1, 1))
    seen = TensorRange(
        name="x",
        amax=amax,
        minimum=SEEN[0],
        maximum=SEEN[1],
        candidates=picked,
        histogram=many,
        channel_minimum=(-20.0, -1.0),
        channel_maximum=(10.0, 1.0),
    )
    table = calibrate(plain(), [{"input": images(1)}]).model_copy(update={"tensors": (seen,)})
    (found,) = with_useful_ranges(graph, table).tensors
    ends = max(-found.minimum, found.maximum)
    assert found.amax == found.candidates.minmax == ends and found.candidates.mse == min(8.0, ends)
    assert min(found.channel_minimum) == found.minimum and max(found.channel_maximum) == found.maximum
    return found.minimum, found.maximum


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("h = HardSigmoid<alpha = 0.16666667>(x) y = Mul(x, h)", -3.0, 10.0),
        ("y = HardSwish(x)", -3.0, 10.0),
        ("h = HardSigmoid<alpha = 0.16666667>(x) y = Mul(m, h)", -3.0, 3.0),
        ("h = Sigmoid(x) y = Mul(m, h)", -6.9, 6.9),
        ("h = Sigmoid(x) y = Mul(x, h)", -6.6, 10.0),
        (GELU, -2.5, 10.0),
        ("y = Gelu(x)", -2.5, 10.0),
        ("y = Relu(x)", 0.0, 10.0),
        ("r = Relu(x) h = Sigmoid(x) y = Add(r, h)", -4.5, 10.0),
    ],
)
def test_a_range_ends_where_its_readers_are_flat(body: str, low: float, high: float) -> None:
    assert cut(body) == pytest.approx((low, high), abs=0.3)


@pytest.mark.parametrize(
    "body",
    [
        "h = Sigmoid(m) y = Mul(x, h)",
        "h = Sigmoid(x) k = Mul(h, m) y = Add(k, x)",
        "r = Relu(x) k = Mul(x, each) y = Add(r, k)",
        "h = Sigmoid(x) k = Mul(x, h) y = Add(k, x)",
        "y = Add(x, one)",
        "a = Mul(x, one) s = Sub(a, a) y = Add(s, m)",
    ],
)
def test_what_is_read_as_it_is_keeps_its_range(body: str) -> None:
    assert cut(body) == SEEN
