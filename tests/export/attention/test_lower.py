from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from torch import nn

from radixrt.export.attention.block import AttentionBlock
from radixrt.export.attention.forms import AttentionForm, Combine, Parts, Squeeze
from radixrt.export.attention.interpret import interpret
from radixrt.export.attention.lower import lower
from radixrt.export.attention.recognise import recognise
from radixrt.export.attention.rewrite import LowerAttention
from radixrt.export.graph.equivalence import Proof, prove
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.shapes import Concrete, Sizes, concretise
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from tests.networks.attention_blocks import Net, SelectiveKernel, SplitAttention, SqueezeExcite
from tests.networks.exported import export, images, op_types, run


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
    options = RewriteOptions(attention=AttentionForm(combine, parts))
    left = check(SplitAttention(8, radix, groups), options=options)
    assert not left & {"Shape", "Gather", "Transpose"}
    assert ("Softmax" in left) == (radix > 2)


@pytest.mark.parametrize("squeeze", list(Squeeze))
@pytest.mark.parametrize("combine", list(Combine))
@pytest.mark.parametrize("branches", [2, 3])
def test_every_form_of_separate_branches_is_exact(squeeze: Squeeze, combine: Combine, branches: int) -> None:
    form = AttentionForm(combine, Parts.SPLIT, squeeze)
    left = check(SelectiveKernel(8, branches), options=RewriteOptions(attention=form))
    assert ("Softmax" in left) == (branches > 2)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("block", [SplitAttention(8), SelectiveKernel(8), SqueezeExcite(8)], ids=["split", "sk", "se"])
def test_nothing_of_the_shape_chains_is_left(block: nn.Module, dynamo: bool, dynamic: bool) -> None:
    left = check(block, dynamo=dynamo, dynamic=dynamic)
    assert not left & {"Shape", "Gather", "Transpose", "Softmax", "Expand", "BatchNormalization"}


# Protects files that went through a simplifier first: their blocks are spelled in yet another way.
@pytest.mark.parametrize("tool", ["onnxsim", "onnxslim"])
@pytest.mark.parametrize("block", [SplitAttention(8, groups=2), SelectiveKernel(8)], ids=["split", "sk"])
def test_simplified_files(tool: str, block: nn.Module) -> None:
    proto = ir.serde.serialize_model(export(Net(block), dynamic=True))
    if tool == "onnxsim":
        import onnxsim

        proto, _ = onnxsim.simplify(proto)
    else:
        import onnxslim

        proto = onnxslim.slim(proto)
    model = ir.serde.deserialize_model(proto)
    feeds = images(model)
    before = run(model, feeds)
    model, report = rewrite(model, RewriteOptions())
    assert report.refused == [] and len(report.attention_blocks) == 1
    np.testing.assert_allclose(run(model, feeds), before, rtol=1e-4, atol=1e-5)


# Protects origins: every node that a rewrite writes still says which module it is of.
@pytest.mark.parametrize("dynamo", [False, True])
def test_new_nodes_keep_their_module(dynamo: bool) -> None:
    model, report = rewrite(export(Net(SplitAttention(8)), dynamo=dynamo), RewriteOptions())
    assert [b.name for b in report.attention_blocks] == ["block"]
    written = [node for node in model.graph if node.name and ".attention" in node.name]
    assert {module_of(node).split(".")[0] for node in written} == {"block"}
    assert {module_of(node) for node in written if node.op_type == "Conv"} <= {"block.fc1", "block.bn1", "block.fc2"}


def block_of(model: ir.Model) -> tuple[AttentionBlock, Concrete]:
    concrete = concretise(model.graph, Sizes())
    (block,) = recognise(model.graph, interpret(model.graph, concrete)).blocks
    return block, concrete


# Protects the proof: it sees a lowering that computes something else.
def test_a_lowering_that_misses_is_seen() -> None:
    model = export(Net(SqueezeExcite(8)))
    block, concrete = block_of(model)
    excite = replace(block.excite, bias=block.excite.bias + 0.1)
    reasons = []
    for lowered_block in (block, replace(block, excite=excite)):
        writer = GraphWriter(model.graph, "block")
        lowered = lower(lowered_block, AttentionForm(), ir.DataType.FLOAT, writer)
        reasons.append(prove(block.nodes, writer.nodes, (block.output, lowered.output), concrete).reason)
        writer.discard()
    assert reasons[0] is None
    assert "differ by" in str(reasons[1])


# Protects the graph from a rewrite that is refused: it is undone, and says so.
def test_a_rewrite_that_misses_is_undone() -> None:
    model = export(Net(SqueezeExcite(8)))
    feeds = images(model)
    before = run(model, feeds)
    result = LowerAttention(prove=lambda *_: Proof(1.0, "they differ"))(model)
    assert result.attention_blocks == () and not result.modified
    assert [r.reason for r in result.refused] == ["they differ"]
    np.testing.assert_array_equal(run(model, feeds), before)


def test_rewriting_needs_no_pytorch() -> None:
    code = "import radixrt.export.passes.pipeline, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
