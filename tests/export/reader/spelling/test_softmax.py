"""Split attention of an old opset is found: what the conversion leaves of a Softmax is one over an axis again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.simplify import simplify
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import CHANNELS, Net, images, outputs


def split_net(batch: int | str, opset: int, break_it: str = "") -> onnx.ModelProto:
    """Two branches, whose softmax an old exporter wrote over the last axis, between two transposes."""
    net = Net()
    stem = net.stem()
    branches = [net.op("Conv", [stem, net.weight(f"b{r}", CHANNELS, CHANNELS, 1, 1)], f"branch{r}") for r in range(2)]
    pooled = net.op("GlobalAveragePool", [net.op("Add", branches, "sum")], "pool")
    hidden = net.op("Relu", [net.op("Conv", [pooled, net.weight("f1", 8, CHANNELS, 1, 1)], "fc1")], "fr")
    logits = net.op("Conv", [hidden, net.weight("f2", 2 * CHANNELS, 8, 1, 1)], "fc2")
    if break_it:
        logits = net.op(break_it, [logits], "broken")
    size = net.op("Gather", [net.op("Shape", [logits], "shape"), net.constant("zero", 0, np.int64)], "n")
    size = net.op("Reshape", [size, net.constant("one", [1], np.int64)], "n1")
    target = net.op("Concat", [size, net.constant("rest", [1, 2, CHANNELS], np.int64)], "target", axis=0)
    apart = net.op("Transpose", [net.op("Reshape", [logits, target], "apart")], "last", perm=[0, 3, 1, 2])
    soft = net.op("Transpose", [net.op("Softmax", [apart], "soft", axis=3)], "back", perm=[0, 3, 2, 1])
    flat = net.op("Concat", [size, net.constant("tail", [2 * CHANNELS, 1, 1], np.int64)], "whole", axis=0)
    gates = net.op("Reshape", [soft, flat], "gates")
    net.nodes.append(onnx.helper.make_node("Split", [gates], ["g0", "g1"], "split", axis=1))
    net.head(net.op("Add", [net.op("Mul", [f"g{r}", branches[r]], f"m{r}") for r in range(2)], "out"))
    return net.model(opset, batch)


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("opset", [9, 11, 12, 13])
def test_split_attention_of_any_opset_is_found(opset: int, batch: int | str, tmp_path: Path) -> None:
    file = split_net(batch, opset)
    model, report = rewrite(simplify(read_onnx(save(file, tmp_path))), RewriteOptions())
    (block,) = report.attention_blocks
    assert (block.kind, block.radix) == ("sk", 2) and not report.refused
    np.testing.assert_allclose(outputs(ir.to_proto(model), images()), outputs(file, images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", ["N", 2])
def test_a_block_that_is_missed_is_listed_with_what_was_not_understood(batch: int | str, tmp_path: Path) -> None:
    graph = simplify(read_onnx(save(split_net(batch, 12, "Tan"), tmp_path)))
    report = rewrite(graph, RewriteOptions())[1]
    assert not report.attention_blocks
    assert {refusal.reason for refusal in report.refused} == {"Tan between pool and gate is not understood"}
