"""Stages speak of torch modules; a file's metadata is data, never code, and never costs more than a look."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from radixrt.export.graph.origin import NAME_SCOPES, copy_origin, module_of, set_module


def node(name: str | None = "node_412", scopes: str | None = None) -> ir.Node:
    made = ir.Node("", "Conv", [], name=name)
    if scopes is not None:
        made.metadata_props[NAME_SCOPES] = scopes
    return made


@pytest.mark.parametrize(
    ("name", "scopes", "module"),
    [
        ("n", "['', 'layer3', 'layer3.2', 'layer3.2.conv2', 'conv2d_7']", "layer3.2.conv2"),
        ("n", "['', 'relu']", "n"),  # an operation of the root module has no path
        ("/layer1/layer1.0/conv2/Conv", None, "layer1.0.conv2"),
        ("/layer1/layer1.10/conv2/rsoftmax/Softmax_1", None, "layer1.10.conv2.rsoftmax"),
        ("/layer2/layer2.0/downsample/downsample.1/Conv", None, "layer2.0.downsample.1"),
        ("/features/features.3/features.3.0/Conv", None, "features.3.0"),
        ("/block/blocks/Conv", None, "block.blocks"),  # "blocks" only begins like "block"
        ("/Flatten", None, "/Flatten"),
        ("Conv_7", None, "Conv_7"),
        (None, None, ""),
    ],
)
def test_module_of(name: str | None, scopes: str | None, module: str) -> None:
    assert module_of(node(name, scopes)) == module


@pytest.mark.parametrize(
    "scopes",
    [
        "__import__('os').system('true')",
        "['', 1, 'x']",
        "{'a': 1}",
        "[",
        "",
        "[" * 5000,
        "[" * 9000 + "]" * 900,
        "['x'" + ", 'x'" * 100_000 + "]",
        "'\\ud800'",
        "\0",
    ],
)
def test_hostile_scopes_fall_back_to_the_name(scopes: str) -> None:
    assert module_of(node("Conv_7", scopes)) == "Conv_7"


def test_a_rewrite_carries_the_origin_along() -> None:
    for source in (node("a", "['', 'layer1', 'layer1.0', 'op']"), node("/layer1/layer1.0/Add")):
        made = node("made")
        copy_origin(source, made)
        assert module_of(made) == "layer1.0"
    unknown = node("made")
    copy_origin(node("Conv_7"), unknown)
    assert module_of(unknown) == "made"


def test_set_module() -> None:
    made = node("made")
    set_module(made, "layer4.1.conv2")
    assert module_of(made) == "layer4.1.conv2"
