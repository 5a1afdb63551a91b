"""Operators that no engine can be held to, and the standard domain under its long name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from radixrt.errors import InputError
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.simplify import simplify
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import CHANNELS, Net, se_net


def _statistics(net: Net, value: str, opset: int) -> None:
    ones, zeros = net.constant("ones", np.ones(CHANNELS)), net.constant("zeros", np.zeros(CHANNELS))
    names = [value, ones, zeros, zeros, ones]
    # Opset 14 says so; before, a node that hands out what it learnt is in training.
    extra = ["mean", "variance"] if opset >= 14 else ["mean", "variance", "saved_mean", "saved_variance"]
    mode = {"training_mode": 1} if opset >= 14 else {}
    net.nodes.append(helper.make_node("BatchNormalization", names, ["normal", *extra], "norm", **mode))


def _dropout(net: Net, value: str, ratio: float = 0.5) -> None:
    net.op("Dropout", [value, net.constant("ratio", ratio), net.constant("mode", True, np.bool_)], "normal")


def _noise(net: Net, value: str) -> None:
    net.op("Add", [value, net.op("RandomNormalLike", [value], "noise")], "normal")


@pytest.mark.parametrize(
    ("opset", "kind", "message"),
    [
        (9, "norm", "exported in training mode .*BatchNormalization.*eval"),
        (15, "norm", "exported in training mode .*BatchNormalization.*eval"),
        (18, "dropout", "exported in training mode .*Dropout.*eval"),
        (18, "noise", "a RandomNormalLike, so no two runs agree"),
    ],
)
def test_training_and_chance_are_refused(opset: int, kind: str, message: str, tmp_path: Path) -> None:
    net = Net()
    value = net.stem()
    if kind == "norm":
        _statistics(net, value, opset)
    elif kind == "dropout":
        _dropout(net, value)
    else:
        _noise(net, value)
    net.head("normal")
    with pytest.raises(InputError, match=message):
        read_onnx(save(net.model(opset), tmp_path))


def test_a_dropout_that_drops_nothing_is_taken(tmp_path: Path) -> None:
    net = Net()
    _dropout(net, net.stem(), ratio=0.0)
    net.head("normal")
    read_onnx(save(net.model(), tmp_path))


@pytest.mark.parametrize("nodes", [False, True])
def test_the_long_name_of_the_standard_domain_is_the_short_one(nodes: bool, tmp_path: Path) -> None:
    file = se_net()
    file.graph.name = ""
    file.opset_import[0].domain = "ai.onnx"
    for node in file.graph.node if nodes else ():
        node.domain = "ai.onnx"
    _, report = rewrite(simplify(read_onnx(save(file, tmp_path))), RewriteOptions())
    assert len(report.attention_blocks) == 1
