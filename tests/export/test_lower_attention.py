from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from radixrt.export.attention_pass import AttentionOptions
from radixrt.export.lower_attention import AttentionForm, Combine, Parts
from radixrt.export.rewrite import RewriteOptions, rewrite
from tests.export.blocks import Net, SelectiveKernel, SplitAttention, SqueezeExcite
from tests.export.exported import export, images, op_types, run


def check(module: nn.Module, *, blocks: int = 1, options: RewriteOptions | None = None, **how: object) -> set[str]:
    """Exports, rewrites and compares; returns the operators left."""
    model = export(Net(module), **how)  # type: ignore[arg-type]
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, options or RewriteOptions())
    assert [r.reason for r in report.refused] == []
    assert len(report.attention_blocks) == blocks
    np.testing.assert_allclose(run(model, feeds), before, rtol=1e-4, atol=1e-5)
    return op_types(model)


# Protects the algebra of the lowering: every form computes what the exporter wrote.
@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("parts", list(Parts))
@pytest.mark.parametrize(("radix", "groups"), [(1, 2), (2, 1), (2, 2), (4, 2)])
def test_every_form_is_exact(combine: Combine, parts: Parts, radix: int, groups: int) -> None:
    options = RewriteOptions(attention=AttentionOptions(AttentionForm(combine, parts)))
    left = check(SplitAttention(8, radix, groups), options=options)
    assert not left & {"Shape", "Gather", "Transpose"}
    assert ("Softmax" in left) == (radix > 2)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("block", [SplitAttention(8), SelectiveKernel(8), SqueezeExcite(8)], ids=["split", "sk", "se"])
def test_nothing_of_the_shape_chains_is_left(block: nn.Module, dynamo: bool, dynamic: bool) -> None:
    left = check(block, dynamo=dynamo, dynamic=dynamic)
    assert not left & {"Shape", "Gather", "Transpose", "Softmax", "Expand", "BatchNormalization"}
