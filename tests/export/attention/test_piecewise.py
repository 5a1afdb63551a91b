"""A piecewise linear function is read by what it computes: however a gate is spelled, its block is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixrt.export.attention import piecewise
from radixrt.export.attention.interpret import interpret
from radixrt.export.attention.piecewise import Curve, line
from radixrt.export.attention.recognise import Recognised, recognise
from radixrt.export.graph.shapes import Sizes, concretise
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from tests.networks.onnx_files import CHANNELS, Net, images, outputs


class Spelling:
    """Writes a function of ``x``; constants are scalars."""

    def __init__(self, net: Net, x: str) -> None:
        self.net, self.x, self.count = net, x, 0

    def __call__(self, kind: str, *inputs: str | float, **attributes: object) -> str:
        self.count += 1
        names = [v if isinstance(v, str) else self.constant(v) for v in inputs]
        return self.net.op(kind, names, f"{self.x}_{kind}{self.count}", **attributes)

    def constant(self, value: float) -> str:
        self.count += 1
        return self.net.constant(f"{self.x}_k{self.count}", value)


HARD_SIGMOIDS: dict[str, Callable[[Spelling, str], str]] = {
    "operator": lambda f, x: f("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "clip, divided": lambda f, x: f("Div", f("Clip", f("Add", x, 3.0), 0.0, 6.0), 6.0),
    "clip, times": lambda f, x: f("Mul", f("Clip", f("Add", x, 3.0), 0.0, 6.0), 0.16666667),
    "clip to one": lambda f, x: f("Clip", f("Add", f("Div", x, 6.0), 0.5), 0.0, 1.0),
    "clip of a share": lambda f, x: f("Clip", f("Mul", f("Add", 3.0, x), 1 / 6), 0.0, 1.0),
    "min of max": lambda f, x: f("Div", f("Min", f("Max", f("Add", x, 3.0), 0.0), 6.0), 6.0),
    "max of min": lambda f, x: f("Max", 0.0, f("Min", 1.0, f("Add", f("Mul", x, 1 / 6), 0.5))),
    "min of relu": lambda f, x: f("Div", f("Min", f("Relu", f("Sub", x, -3.0)), 6.0), 6.0),
    "two clips": lambda f, x: f("Clip", f("Clip", f("HardSigmoid", x, alpha=1 / 6, beta=0.5), 0.0), "", 1.0),
    "difference of relus": lambda f, x: f(
        "Div", f("Sub", f("Relu", f("Add", x, 3.0)), f("Relu", f("Sub", x, 3.0))), 6.0
    ),
    "sum of absolutes": lambda f, x: f(
        "Add", f("Div", f("Sub", f("Abs", f("Add", x, 3.0)), f("Abs", f("Sub", x, 3.0))), 12.0), 0.5
    ),
    "one less a relu": lambda f, x: f("Sub", 1.0, f("Min", 1.0, f("Relu", f("Div", f("Sub", 3.0, x), 6.0)))),
    "where": lambda f, x: f(
        "Where", f("Less", x, -3.0), 0.0, f("Where", f("Greater", x, 3.0), 1.0, f("Add", f("Div", x, 6.0), 0.5))
    ),
    "where between": lambda f, x: f(
        "Where",
        f("And", f("Greater", x, -3.0), f("Not", f("GreaterOrEqual", x, 3.0))),
        f("Add", f("Div", x, 6.0), 0.5),
        f("Max", f("Min", f("Mul", x, 100.0), 1.0), 0.0),
    ),
    "times a condition": lambda f, x: f(
        "Min", f("Mul", f("Cast", f("Greater", x, -3.0), to=1), f("Div", f("Add", x, 3.0), 6.0)), 1.0
    ),
}


def se_net(
    gate: Callable[[Spelling, str], str], between: Callable[[Spelling, str], str] | None = None
) -> onnx.ModelProto:
    net = Net()
    value = net.stem()
    pooled = net.op("GlobalAveragePool", [value], "pool")
    first = net.op(
        "Conv", [pooled, net.weight("f1", 8, CHANNELS, 1, 1), net.constant("b1", np.linspace(-1, 1, 8))], "fc1"
    )
    hidden = between(Spelling(net, first), first) if between else net.op("Relu", [first], "fr")
    weights = [net.constant("w2", 6 * net.random.standard_normal((CHANNELS, 8, 1, 1)))]
    second = net.op("Conv", [hidden, *weights, net.constant("b2", np.linspace(-4, 4, CHANNELS))], "fc2")
    net.head(net.op("Mul", [value, gate(Spelling(net, second), second)], "excited"))
    return net.model(batch=2)


def recognised(model: onnx.ModelProto) -> Recognised:
    graph = ir.from_proto(model).graph
    return recognise(graph, interpret(graph, concretise(graph, Sizes(batch=2))))


def assert_equal_after_rewrite(model: onnx.ModelProto) -> None:
    rewritten, report = rewrite(ir.from_proto(model), RewriteOptions())
    assert len(report.attention_blocks) == 1, report.refused
    np.testing.assert_allclose(
        outputs(ir.to_proto(rewritten), images()), outputs(model, images()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("spelling", HARD_SIGMOIDS)
def test_a_hard_sigmoid_is_one_however_it_is_spelled(spelling: str) -> None:
    model = se_net(HARD_SIGMOIDS[spelling])
    (block,) = recognised(model).blocks
    assert block.gate.kind == "HardSigmoid"
    assert_equal_after_rewrite(model)


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        (lambda f, x: f("Clip", x, 0.0, 6.0), "Clip"),
        (lambda f, x: f("Min", f("Relu", x), 6.0), "Clip"),
        (lambda f, x: f("Max", x, f("Mul", x, 0.1)), "LeakyRelu"),
        (lambda f, x: f("Where", f("Greater", x, 0.0), x, f("Mul", x, 0.1)), "LeakyRelu"),
        (lambda f, x: f("PRelu", x, 0.25), "LeakyRelu"),
        (lambda f, x: f("PRelu", x, f.net.constant("slopes", np.linspace(0, 1, 8).reshape(8, 1, 1))), "PRelu"),
        (lambda f, x: f("Sub", f("Relu", x), f("Mul", f("Relu", f("Neg", x)), 0.25)), "LeakyRelu"),
        (lambda f, x: f("Max", x, 0.0), "Relu"),
        (lambda f, x: f("Min", x, 0.0), "Relu"),
        (lambda f, x: f("Relu", f("Sub", f("Relu", x), 0.2)), "Relu"),
    ],
)  # fmt: skip
def test_what_stands_between_the_fcs_is_read_by_what_it_computes(
    between: Callable[[Spelling, str], str], kind: str
) -> None:
    model = se_net(lambda f, x: f("Sigmoid", x), between)
    (block,) = recognised(model).blocks
    assert block.hidden is not None and block.hidden[1].kind == kind
    assert_equal_after_rewrite(model)


@pytest.mark.parametrize(
    "around",
    [
        lambda f, gate: f("Clip", gate, 0.0, 1.0),
        lambda f, gate: f("Abs", gate),
        lambda f, gate: f("Relu", gate),
        lambda f, gate: f("Max", f("Min", gate, 1.0), 0.0),
        lambda f, gate: f("Add", f("Mul", f("Relu", f("Add", gate, -0.0)), 0.5), 0.5),
    ],
)
@pytest.mark.parametrize("kind", ["Sigmoid", "HardSigmoid"])
def test_what_bends_only_where_no_gate_lies_is_no_activation(around: Callable[[Spelling, str], str], kind: str) -> None:
    model = se_net(lambda f, x: around(f, f(kind, x)))
    (block,) = recognised(model).blocks
    assert block.gate.kind == kind
    assert_equal_after_rewrite(model)


def test_what_bends_within_a_gate_is_refused() -> None:
    found = recognised(se_net(lambda f, x: f("Max", f("Sigmoid", x), 0.25)))
    assert not found.blocks and len(found.refused) == 1


def test_a_step_is_no_gate_and_is_listed() -> None:
    found = recognised(se_net(lambda f, x: f("Where", f("Greater", x, 0.0), 1.0, 0.0)))
    (refusal,) = found.refused
    assert not found.blocks and "between pool and gate is not understood" in refusal.reason


numbers = st.floats(-4, 4).map(lambda number: round(number, 2))


@given(st.lists(st.tuples(st.sampled_from(["add", "scale", "shift", "max", "min", "bend", "of"]), numbers), max_size=8))
def test_a_curve_is_the_function_that_made_it(steps: list[tuple[str, float]]) -> None:
    points = np.linspace(-7.3, 7.1, 41)
    curve, expected = line(1.0, 0.0), points.copy()
    grid: Callable[[np.ndarray], np.ndarray] = lambda x: x  # noqa: E731
    for step, number in steps:
        before = grid
        if step == "add":
            curve = piecewise.plus(curve, piecewise.bent(line(1.0, number), 0.5))
            grid = lambda x, f=before, n=number: f(x) + np.where(x + n > 0, x + n, (x + n) / 2)  # type: ignore[misc]  # noqa: E731
        elif step in ("scale", "shift"):
            factor, offset = (number, 0.0) if step == "scale" else (1.0, number)
            curve = curve.times(factor, offset)
            grid = lambda x, f=before, a=factor, b=offset: f(x) * a + b  # type: ignore[misc]  # noqa: E731
        elif step in ("max", "min"):
            choose, extreme = (piecewise.largest, np.maximum) if step == "max" else (piecewise.smallest, np.minimum)
            curve = choose(curve, line(0.0, number))
            grid = lambda x, f=before, e=extreme, n=number: e(f(x), n)  # type: ignore[misc]  # noqa: E731
        elif step == "bend":
            curve = piecewise.bent(curve, number)
            grid = lambda x, f=before, n=number: np.where(f(x) > 0, f(x), n * f(x))  # type: ignore[misc]  # noqa: E731
        else:
            curve = curve.of(number, 0.5)
            grid = lambda x, f=before, n=number: f(n * x + 0.5)  # type: ignore[misc]  # noqa: E731
    expected = grid(points)
    assert isinstance(curve, Curve) and list(curve.knots) == sorted(curve.knots)
    scale = max(1.0, float(np.abs(expected).max()), *map(abs, curve.slopes))
    np.testing.assert_allclose([curve(x) for x in points], expected, rtol=0, atol=1e-6 * scale)
