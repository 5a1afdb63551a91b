"""What the numbers of an output are: read from the node that makes them, and taken for that and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from radixrt.export.graph.output_kind import OutputKind, output_kinds
from tests.networks.onnx_text import graph

LOGITS = np.random.default_rng(0).normal(size=(6, 5)) * 3


def ends_in(nodes: str, shape: str = "N,5") -> OutputKind | None:
    text = f"g (float[N,5] x) => (float[{shape}] y) {{ {nodes} }}"
    return output_kinds(graph(text).graph)["y"]


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ("y = Relu(x)", OutputKind.LOGITS),
        ("y = Softmax<axis=1>(x)", OutputKind.PROBABILITIES),
        ("y = Softmax(x)", OutputKind.PROBABILITIES),
        ("y = Sigmoid(x)", OutputKind.SCORES),
        ("y = HardSigmoid(x)", OutputKind.SCORES),
        ("y = LogSoftmax(x)", OutputKind.LOG_PROBABILITIES),
        ("p = Softmax(x) y = Log(p)", OutputKind.LOG_PROBABILITIES),
        ("p = LogSoftmax(x) y = Exp(p)", OutputKind.PROBABILITIES),
        ("p = Softmax(x) y = Flatten(p)", OutputKind.PROBABILITIES),
        ("h = Cast<to=10>(x) p = Softmax(h) y = Cast<to=1>(p)", OutputKind.PROBABILITIES),
        ("p = Sigmoid(x) i = Identity(p) y = Identity(i)", OutputKind.SCORES),
        # Over the images of a batch it makes no probabilities of classes.
        ("y = Softmax<axis=0>(x)", OutputKind.LOGITS),
        # A gate inside the network decides nothing.
        ("s = Sigmoid(x) y = Mul(x, s)", OutputKind.LOGITS),
    ],
)
def test_the_node_at_the_end_decides(nodes: str, kind: OutputKind) -> None:
    assert ends_in(nodes) is kind


def test_quantised_probabilities_are_probabilities() -> None:
    text = """g (float[N,5] x) => (float[N,5] y) <float scale = {0.004}, uint8 zero = {0}> {
        p = Softmax(x)
        q = QuantizeLinear(p, scale, zero)
        y = DequantizeLinear(q, scale, zero)
    }"""
    assert output_kinds(graph(text).graph) == {"y": OutputKind.PROBABILITIES}


def test_a_further_output_is_known_only_by_what_it_ends_in() -> None:
    text = "g (float[N,5] x) => (float[N,5] y, float[N,5] z, float[N,5] w) { y = Relu(x) z = Sigmoid(x) w = Exp(x) }"
    assert output_kinds(graph(text).graph) == {"y": OutputKind.LOGITS, "z": OutputKind.SCORES}


# The same network, its end inside or outside of the file: the probabilities and their divergence are the same.
def test_confidences_and_divergences_do_not_depend_on_where_the_softmax_is() -> None:
    other = LOGITS + np.random.default_rng(1).normal(size=LOGITS.shape) * 0.3
    spelled = {
        OutputKind.LOGITS: lambda x: x,
        OutputKind.PROBABILITIES: lambda x: softmax(x, axis=1),
        OutputKind.LOG_PROBABILITIES: lambda x: log_softmax(x, axis=1),
    }
    for kind, end in spelled.items():
        np.testing.assert_allclose(kind.confidences(end(LOGITS)), softmax(LOGITS, axis=1), atol=1e-12)
        expected = OutputKind.LOGITS.divergence(LOGITS, other)
        np.testing.assert_allclose(kind.divergence(end(LOGITS), end(other)), expected, atol=1e-5)


def test_scores_are_independent_answers() -> None:
    scores, other = np.array([[0.9, 0.8]]), np.array([[0.9, 0.4]])
    np.testing.assert_array_equal(OutputKind.SCORES.confidences(scores), scores)
    expected = 0.8 * np.log(0.8 / 0.4) + 0.2 * np.log(0.2 / 0.6)
    assert OutputKind.SCORES.divergence(scores, other)[0] == pytest.approx(expected)
    assert OutputKind.SCORES.divergence(scores, scores)[0] == 0


def test_a_probability_that_rounding_made_zero_is_finite() -> None:
    assert np.isfinite(OutputKind.PROBABILITIES.divergence(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))).all()
