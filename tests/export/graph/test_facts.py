"""Protects the bounds that the graph proves of a tensor: a range cut at a wrong one would clip real numbers."""

from __future__ import annotations

import numpy as np
import pytest

from radixrt.export.graph.facts import lower_bound
from tests.networks.onnx_text import graph
from tests.networks.residual import logits

NODES = {
    "hard swish": ("output = HardSwish (input)", -0.375),
    "hard sigmoid of ONNX's own slope": ("g = HardSigmoid (input)\n output = Mul (input, g)", -0.3125),
    "gentle slope": ("g = HardSigmoid <alpha = 0.1, beta = 0.5> (input)\n output = Mul (g, input)", -0.625),
    "SiLU": ("g = Sigmoid (input)\n output = Mul (input, g)", -0.2784646),
    "gated": ("h = HardSwish (input)\n p = GlobalAveragePool (h)\n g = Sigmoid (p)\n output = Mul (h, g)", -0.375),
    "nothing known": ("g = Sigmoid (input)\n h = Neg (input)\n output = Mul (h, g)", None),
}


@pytest.mark.parametrize("kind", NODES)
def test_no_number_lies_below_the_bound_and_one_comes_close(kind: str) -> None:
    text, bound = NODES[kind]
    model = graph(f"net (float[1,4,32,32] input) => (float[1,4,32,32] output) {{ {text} }}")
    found = lower_bound(model.graph.outputs[0])
    assert found == (None if bound is None else pytest.approx(bound, abs=1e-6))
    if bound is not None:
        least = logits(model, np.linspace(-9, 3, 4096, dtype=np.float32).reshape(1, 4, 32, 32)).min()
        assert bound - 1e-6 <= least
        assert kind == "gated" or least == pytest.approx(bound, abs=1e-4)
