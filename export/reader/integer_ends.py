"""Ends of a fully quantised file, as converters of mobile formats write them: integers outside, Q/DQ right behind them.

Before::

    x int8 ──► DequantizeLinear ──► ... ──► QuantizeLinear ──► y uint8

After::

    x float32 ──► QuantizeLinear ──► DequantizeLinear ──► ... ──► QuantizeLinear ──► DequantizeLinear ──► y float32

with the file's own scales, so that the pairs are like any others: kept or taken off. An input of uint8 stays as it is:
a picture's bytes go there. Left as they stand: ends that something else reads or makes (a mask of class numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from radixrt.export.reader.ends import rename
from radixrt.export.reader.tensors import type_name

_MADE = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)
_TAKEN = (TensorProto.INT8, TensorProto.INT16, TensorProto.UINT16)


def float_integer_ends(proto: onnx.ModelProto, path: Path, remark: Callable[[str], None]) -> None:
    """Gives a graph, whose weights are no longer among its inputs, float32 ends where its own are quantised."""
    graph = proto.graph
    changed = [f"{name} {kind}" for value in graph.input if (name := value.name) and (kind := _input(graph, value))]
    changed += [f"{name} {kind}" for value in graph.output if (name := value.name) and (kind := _output(graph, value))]
    if changed:
        remark(
            f"{path} has quantised ends ({', '.join(changed)}); the engine's are float32, of the numbers that the "
            "integers stand for."
        )


def _input(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> str:
    """Quantises an input that is dequantised at once; returns the type that it had, nothing where it stays."""
    readers = [node for node in graph.node if value.name in node.input]
    element = value.type.tensor_type.elem_type
    if element not in _TAKEN or not readers or any(node.op_type != "DequantizeLinear" for node in readers):
        return ""
    steps = list(readers[0].input[1:])
    if any(list(node.input[1:]) != steps for node in readers):
        return ""
    inner = f"{value.name}.{type_name(element)}"
    rename(graph, value.name, inner)
    pair = helper.make_node(
        "QuantizeLinear", [value.name, *steps], [inner], f"{inner}.quantize", domain=readers[0].domain
    )
    graph.node.insert(next(i for i, node in enumerate(graph.node) if inner in node.input), pair)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    return type_name(element)


def _output(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> str:
    """Dequantises an output that is quantised at the end; returns the type that it had, nothing where it stays."""
    maker = next((node for node in graph.node if value.name in node.output), None)
    element = value.type.tensor_type.elem_type
    if maker is None or maker.op_type != "QuantizeLinear" or element not in _MADE:
        return ""
    inner = f"{value.name}.{type_name(element)}"
    rename(graph, value.name, inner)
    names = [inner, *maker.input[1:]]
    pair = helper.make_node("DequantizeLinear", names, [value.name], f"{inner}.dequantize", domain=maker.domain)
    graph.node.append(pair)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    return type_name(element)
