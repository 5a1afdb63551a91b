"""Networks that borrow the block, from timm and the ResNeSt authors: every block found, none refused, outputs equal.

The default suite takes a dozen that differ. ``python -m tests.export.test_rewrite_corpus`` runs every timm network
whose modules include one of ``ATTENTION``, and prints a line for each.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from tests.networks.exported import export, randomise, run

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
# A deep network of random weights may be chaotic (seresnet101: float32 and float64 differ by a quarter)
# or deaf (every image gives the same logits). Of these gains, those with which rounding matters least are taken.
GAINS = ((0.5, 1.5), (0.8, 1.8), (0.4, 1.2), (0.45, 1.35), (0.38, 1.14), (0.35, 1.05), (0.33, 1.0), (0.3, 0.9))
# Logits beyond this are not compared: runtimes differ in the tails of their sigmoids more than in rounding.
LARGEST = 1e5
# Where rounding alone moves the logits by more than this share of what two images are apart, nothing can be compared.
CHAOTIC = 0.1
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


def telling_gains(module: nn.Module, x: torch.Tensor) -> tuple[tuple[float, float], float]:
    """Returns gains of the normalisations with which the two images ``x`` differ and rounding matters least.

    The second figure is what rounding does then: the largest difference of a logit between float32 and float64.
    """
    best, least = (GAINS[0], float("inf")), float("inf")
    for gains in GAINS:
        single = randomise(module, gains=gains)
        with torch.no_grad():
            # One at a time, as they are compared: a network may mix what is in a batch.
            logits = torch.cat([single(image) for image in x.split(1)]).double()
            double = copy.deepcopy(single).double()
            exact = torch.cat([double(image) for image in x.double().split(1)])
        rounding, apart = float((logits - exact).abs().max()), float((exact[0] - exact[1]).abs().max())
        if rounding < least * apart and float(exact.abs().max()) < LARGEST:
            best, least = (gains, rounding), rounding / apart
        if least < 1e-3:
            break
    assert least < CHAOTIC, f"rounding alone moves its logits by {least:.0%} of what two images are apart"
    return best


def check(
    module: nn.Module, side: int = 64, *, dynamo: bool = False, dynamic: bool = False, opset: int = 17
) -> Counter[str]:
    """Rewrites an export of ``module``; raises where a block is missed or refused or the output moves."""
    expected = attention_modules(module)
    pair = np.stack([np.random.default_rng(seed).standard_normal((3, side, side)) for seed in (0, 1)]).astype("f")
    gains, rounding = telling_gains(module, torch.from_numpy(pair))
    model = export(module, (1, 3, side, side), dynamo=dynamo, dynamic=dynamic, opset=opset, gains=gains)
    assert model.opset_imports[""] == opset
    feeds = [{str(model.graph.inputs[0].name): image[None]} for image in pair]
    before = [run(model, feed) for feed in feeds]
    model, report = rewrite(model, RewriteOptions())
    refused = [(r.node, r.reason) for r in report.refused]
    assert refused == [], refused
    assert len(report.attention_blocks) == expected, f"{len(report.attention_blocks)} of {expected} blocks found"
    # Random weights make logits of any size, and of any bias: what counts is how far two images are apart.
    apart = float(np.abs(before[0] - before[1]).max())
    for feed, reference in zip(feeds, before, strict=True):
        np.testing.assert_allclose(run(model, feed), reference, rtol=0, atol=max(1e-2 * apart, 10 * rounding))
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
    assert sum(check(build(name), dynamo=True, dynamic=True, opset=opset).values()) == blocks


def _every_network() -> list[str]:
    import resnest.torch as authors
    import timm

    theirs = [n for n in dir(authors) if n.startswith("resnest") and inspect.isfunction(getattr(authors, n))]
    return [*(f"resnest:{name}" for name in theirs), *timm.list_models()]


def _side(plain: nn.Module) -> int:
    """64 where a network takes such images, else its own size."""
    try:
        plain.eval()(torch.zeros(1, 3, 64, 64, device="meta"))
    except Exception:  # each refuses in its own way
        return int(plain.default_cfg["input_size"][1])  # type: ignore[index, union-attr]
    return 64


def _by_either_exporter(name: str, side: int) -> tuple[object, ...]:
    """By the older exporter, which is quicker; by the newer one, for one image, what that one cannot export."""
    try:
        return (dict(check(build(name), side)),)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError):
        return dict(check(build(name), side, dynamo=True, opset=18)), "by the dynamo exporter"


def _whole_corpus(names: list[str]) -> int:
    torch._C._jit_set_onnx_log_output_stream("stderr")  # the older exporter prints the whole graph where it fails
    passed = missed = 0
    for name in names or _every_network():
        try:
            with torch.device("meta"):
                plain = build(name)
            if not attention_modules(plain):
                continue
            print(name, *_by_either_exporter(name, _side(plain)), flush=True)
            passed += 1
        except Exception as error:  # one network that cannot be built or exported must not end the run
            missed += 1
            print(name, "MISSED", " ".join(repr(error).split())[:300], flush=True)
    print(f"{passed} networks: every block found and lowered, outputs equal; {missed} networks missed")
    return missed


if __name__ == "__main__":
    sys.exit(bool(_whole_corpus(sys.argv[1:])))
