"""Graphs before and after each rule, as ONNX text in ``golden/``: what the compiler writes, for a person to read.

After a deliberate change ``python -m tests.export.passes.test_golden`` writes the ``after`` files anew: review that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from radixrt.engines.cpu.relu_behind_pool import ReluBehindPool
from radixrt.engines.tensorrt.rtx.join_shortcut import JoinShortcut
from radixrt.engines.tensorrt.rtx.space_to_depth import SpaceToDepth
from radixrt.engines.tensorrt.rtx.window_pool import WindowPool
from radixrt.export.attention.forms import AttentionForm, Combine, Parts, Squeeze
from radixrt.export.attention.rewrite import LowerAttention
from radixrt.export.passes.base import Pass
from radixrt.export.passes.conv_shape import DENSE, SPLIT, Form
from radixrt.export.passes.float16 import to_float16
from radixrt.export.passes.fold_batchnorm import FoldBatchNorm
from radixrt.export.passes.fold_shapes import FoldShapes
from radixrt.export.passes.grouped_conv import GroupedConv
from radixrt.export.passes.pool_conv import PoolConv
from radixrt.export.passes.squeeze_early import SqueezeEarly
from tests.networks.exported import images, run

GOLDEN = Path(__file__).parent / "golden"


def attention(combine: Combine, parts: Parts, squeeze: Squeeze = Squeeze.EACH) -> Pass:
    return LowerAttention(AttentionForm(combine, parts, squeeze))


RULES = {
    "split_radix2_blend": attention(Combine.BLEND, Parts.SLICE),
    "split_radix2_lerp": attention(Combine.LERP, Parts.SPLIT),
    "split_radix2_scale": attention(Combine.SCALE, Parts.REDUCE),
    "split_radix3": attention(Combine.WEIGHTS, Parts.SPLIT),
    "se": attention(Combine.SCALE, Parts.SPLIT),
    "sk": attention(Combine.BLEND, Parts.SPLIT),
    "sk_sum": attention(Combine.BLEND, Parts.SPLIT, Squeeze.SUM),
    "fold_batchnorm": FoldBatchNorm(),
    "fold_shapes": FoldShapes(),
    "squeeze_early": SqueezeEarly(),
    "pool_conv": PoolConv(lambda shape: ("conv", "")),
    "grouped_conv_split": GroupedConv(lambda shape: (SPLIT, "")),
    "grouped_conv_merge": GroupedConv(lambda shape: (Form("merge", 2), "")),
    "grouped_conv_dense": GroupedConv(lambda shape: (DENSE, "")),
    "join_shortcut": JoinShortcut(),
    "space_to_depth": SpaceToDepth(),
    "window_pool": WindowPool(),
    "relu_behind_pool": ReluBehindPool(),
    "float16": to_float16,
}


def read(rule: str) -> ir.Model:
    """The graph that the rule starts from; the forms of one block start from the same."""
    name = next((n for n in ("split_radix2", "sk", "grouped_conv") if rule.startswith(n)), rule)
    return ir.serde.deserialize_model(onnx.parser.parse_model((GOLDEN / f"{name}.before.txt").read_text()))


def rewritten(rule: str) -> tuple[ir.Model, str]:
    result = RULES[rule](read(rule))
    assert result.modified and result.refused == ()
    model = result.model
    ir.passes.Sequential(*_clean())(model)
    proto = ir.serde.serialize_model(model)
    for node in proto.graph.node:
        del node.metadata_props[:]
    return model, onnx.printer.to_text(proto) + "\n"


def _clean() -> list[ir.passes.PassBase]:
    import onnx_ir.passes.common as common

    return [common.RemoveUnusedNodesPass(), common.ClearMetadataAndDocStringPass()]


# Protects the exact form of what is written; and, as weights stand in the text, the folded numbers too.
@pytest.mark.parametrize("rule", RULES)
def test_rule_writes_the_golden_graph(rule: str) -> None:
    model, text = rewritten(rule)
    assert text == (GOLDEN / f"{rule}.after.txt").read_text()
    before = read(rule)
    feeds = images(before)
    rtol, atol = (2e-3, 1e-3) if rule == "float16" else (1e-5, 1e-6)
    np.testing.assert_allclose(run(model, feeds), run(before, feeds), rtol=rtol, atol=atol)


if __name__ == "__main__":
    for each in RULES:
        (GOLDEN / f"{each}.after.txt").write_text(rewritten(each)[1])
