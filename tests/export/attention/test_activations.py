from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from tests.export.attention.test_recognise import look
from tests.networks.attention_blocks import Net, SqueezeExcite
from tests.networks.exported import export, images, run

SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], str, tuple[float, ...]]] = {
    "gelu": (F.gelu, "Gelu", ()),
    "gelu, factors elsewhere": (lambda x: (x * 0.5) * (1 + torch.erf(x * 0.70710678)), "Gelu", ()),
    "gelu, a half on either side": (lambda x: x * (0.5 + 0.5 * torch.erf(x / 1.41421356)), "Gelu", ()),
    "tanh gelu": (lambda x: F.gelu(x, approximate="tanh"), "GeluTanh", ()),
    "tanh gelu, cubed by products": (
        lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
        "GeluTanh",
        (),
    ),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), "Swish", (1.702,)),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), "Mish", ()),
    "hard-swish of MobileNetV3": (lambda x: x * (F.relu6(x + 3) / 6), "HardSwish", ()),
    "square": (lambda x: x * x, "Pow", (2.0,)),
    "silu of the negated": (lambda x: x * torch.sigmoid(-x), "Swish", (-1.0,)),
}
# Near a GELU, and none: taken for one, the block would compute something else.
NO_GELU: dict[str, Callable[[Tensor], Tensor]] = {
    "another cubic": lambda x: x * (1 + torch.tanh(0.7978845608 * (x + 0.05 * x * x * x))),
    "another offset": lambda x: x * (2 + torch.erf(x / 1.41421356)),
    "of another tensor": lambda x: x * (1 + torch.erf(x.flip(1))),
}


class Act(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def net(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Net(SqueezeExcite(8, act=lambda: Act(function), linear=False))  # type: ignore[arg-type]


# Protects activations that exporters and people write out, before the opset that has the operator and after: each is
# read as what it is, and written again in a way that the file's opset takes.
@pytest.mark.parametrize(
    ("name", "opset", "dynamo"),
    [(n, o, False) for n in SPELLINGS for o in (13, 17, 20)] + [(n, 18, True) for n in ("gelu", "tanh gelu")],
)
def test_an_activation_in_any_spelling(name: str, opset: int, dynamo: bool) -> None:
    function, kind, params = SPELLINGS[name]
    model = export(net(function), dynamo=dynamo, opset=opset)
    (block,) = look(model).blocks
    assert block.hidden is not None and block.hidden[1].kind == kind
    np.testing.assert_allclose(block.hidden[1].params, params, rtol=1e-6)
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, RewriteOptions())
    assert report.refused == [] and len(report.attention_blocks) == 1
    np.testing.assert_allclose(run(model, feeds), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NO_GELU)
def test_what_is_no_gelu_is_refused(name: str) -> None:
    _, report = rewrite(export(net(NO_GELU[name])), RewriteOptions())
    assert report.attention_blocks == []
    assert ["Mul between pool and gate" in r.reason for r in report.refused] == [True]
