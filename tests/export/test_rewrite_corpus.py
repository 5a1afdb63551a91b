"""Networks that borrow the block, from timm and the ResNeSt authors: every block found, none refused, outputs equal.

The default suite takes a dozen that differ. ``python -m tests.export.test_rewrite_corpus`` runs every timm network
whose modules include one of ``ATTENTION``, and prints a line for each.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from radixrt.export.rewrite import RewriteOptions, rewrite
from tests.export.exported import export, images, run

# The classes whose instances are one block each, in timm and in the authors' package.
ATTENTION = frozenset(
    [
        "SEModule",
        "SqueezeExcite",
        "EffectiveSEModule",
        "SplitAttn",
        "SelectiveKernel",
        "SEWithNorm",
        "EseModule",
        "SplAtConv2d",
    ]
)
NETWORKS = {
    "lcnet_050": 2,
    "mobilenetv3_small_050": 9,
    "ese_vovnet19b_slim": 4,
    "regnety_002": 13,
    "ghostnet_100": 7,
    "seresnet18": 8,
    "skresnet18": 8,
    "resnest14d": 4,
}
SLOW = {
    "efficientnet_b0": 16,
    "rexnet_100": 13,
    "resnest50d_1s4x24d": 16,
    "resnest50d_4s2x40d": 16,
    "resnest:resnest50": 16,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("resnest:"):
        import resnest.torch as authors

        return getattr(authors, name.removeprefix("resnest:"))(pretrained=False)  # type: ignore[no-any-return]
    import timm

    return timm.create_model(name)  # type: ignore[no-any-return]


def attention_modules(module: nn.Module) -> int:
    return sum(type(m).__name__ in ATTENTION for m in module.modules())


def check(module: nn.Module, side: int = 64, *, dynamo: bool = False, opset: int = 17) -> Counter[str]:
    """Rewrites an export of ``module``; raises where a block is missed or refused or the output moves."""
    expected = attention_modules(module)
    model = export(module, (1, 3, side, side), dynamo=dynamo, dynamic=dynamo, opset=opset)
    assert model.opset_imports[""] == opset
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, RewriteOptions())
    assert [(r.node, r.reason) for r in report.refused] == []
    assert len(report.attention_blocks) == expected
    # Random weights make logits of any size: the tolerance is relative to the largest.
    np.testing.assert_allclose(run(model, feeds), before, rtol=0, atol=1e-3 * float(np.abs(before).max()))
    return Counter(f"{b.kind} R={b.radix} K={b.cardinality}" for b in report.attention_blocks)


# Protects the promise that every block of a known network is found: the number is stated, not read off the result.
@pytest.mark.parametrize(("name", "blocks"), NETWORKS.items())
def test_every_block_is_found(name: str, blocks: int) -> None:
    assert sum(check(build(name)).values()) == blocks


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), SLOW.items())
def test_every_block_of_a_larger_network_is_found(name: str, blocks: int) -> None:
    assert sum(check(build(name)).values()) == blocks


# Protects files of newer exporters: what the rewrite builds must fit the opset that the file is written in.
@pytest.mark.slow
@pytest.mark.parametrize("opset", [21, 23])
@pytest.mark.parametrize(("name", "blocks"), [("resnest14d", 4), ("skresnet18", 8)])
def test_every_block_is_found_in_a_newer_opset(name: str, blocks: int, opset: int) -> None:
    assert sum(check(build(name), dynamo=True, opset=opset).values()) == blocks


def _whole_corpus(names: list[str]) -> int:
    import timm

    missed = 0
    for name in names or timm.list_models():
        try:
            with torch.device("meta"):
                plain = timm.create_model(name)
            if not attention_modules(plain):
                continue
            config = plain.default_cfg
            side = config["input_size"][1] if config.get("fixed_input_size") else 64
            print(name, dict(check(build(name), side)), flush=True)
        except Exception as error:  # one network that cannot be built or exported must not end the run
            missed += 1
            print(name, "MISSED", type(error).__name__, str(error).splitlines()[0][:160], flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(bool(_whole_corpus(sys.argv[1:])))
