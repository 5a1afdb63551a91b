"""The inputs and outputs of an untrusted ONNX file: that they are numbers, made by its nodes, and in float32.

An output that no node makes, that is an input or a constant, or that is named twice is refused by its name; one without
a type is given the type that it has. Ends of float16 or double become float32, with a Cast between them and the rest;
one image without an axis of samples gets one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from radixrt.errors import InputError, first_line
from radixrt.export.reader.opset import opset_of
from radixrt.export.reader.tensors import type_name

_OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.DOUBLE)
_TYPES = (
    TensorProto.FLOAT,
    *_OTHER_FLOATS,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.UINT8,
    TensorProto.BOOL,
)
_COLOURS = 3
_AXES_AS_INPUT = 13  # the opset from which Squeeze takes its axes as an input


def check_ends(proto: onnx.ModelProto, path: Path) -> None:
    """Holds a graph, whose weights are no longer among its inputs, to inputs and outputs that can be compiled.

    Raises:
        InputError: an input or output is of another kind.
    """
    _check_outputs(proto.graph, path)
    _type_outputs(proto, path)
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type not in _TYPES:
            raise InputError(
                f"{path}: {value.name} is {_kind(value)}: inputs (images already normalised) and outputs must "
                "be float32, float16, double, uint8, int32, int64 or bool; precision is chosen in the build"
            )


def _kind(value: onnx.ValueInfoProto) -> str:
    """What a value is: the type of its elements, or what it holds instead of a tensor."""
    form = value.type.WhichOneof("value")
    if form is None:
        return "of no type"
    return type_name(value.type.tensor_type.elem_type) if form == "tensor_type" else form.removesuffix("_type")


def float_ends(proto: onnx.ModelProto, path: Path, remark: Callable[[str], None]) -> None:
    """Puts a Cast behind an input and before an output of float16 or double: the graph's own ends become float32."""
    graph = proto.graph
    sources = {value.name for value in graph.input}
    ends = [value for value in (*graph.input, *graph.output) if value.type.tensor_type.elem_type in _OTHER_FLOATS]
    types = {type_name(value.type.tensor_type.elem_type): None for value in ends}
    for value in ends:
        element = value.type.tensor_type.elem_type
        inner = f"{value.name}.{type_name(element)}"
        rename(graph, value.name, inner)
        source = value.name in sources
        names, to = ([value.name, inner], element) if source else ([inner, value.name], TensorProto.FLOAT)
        cast = helper.make_node("Cast", names[:1], names[1:], name=f"{inner}.cast", to=to)
        graph.node.insert(0 if source else len(graph.node), cast)
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    if ends:
        names = [value.name for value in ends]
        remark(f"{path} has {' and '.join(types)} ends ({', '.join(names)}); the engine's are float32.")


def with_samples_axis(proto: onnx.ModelProto, path: Path, remark: Callable[[str], None]) -> None:
    """Gives a graph that takes one image without an axis of samples, as torchvision exports detectors, that axis.

    Before: one input 3 x H x W; outputs of that image (boxes K x 4). After: the input is 1 x 3 x H x W and every output
    has an axis of one sample in front (1 x K x 4), by a Squeeze and an Unsqueeze at the ends. Other inputs of three
    sides keep them: one whose first is 1 may as well be a sequence with an axis of samples.

    Args:
        proto: its inputs are those that are no weights.
        path: its file, for the remark.
        remark: takes a sentence that says so.
    """
    graph = proto.graph
    if len(graph.input) != 1:
        return
    (image,) = graph.input
    sides = image.type.tensor_type.shape.dim
    if len(sides) != 3 or sides[0].dim_value != _COLOURS:
        return
    opset, first = opset_of(proto), f"{image.name}.axis"
    if opset >= _AXES_AS_INPUT:
        graph.initializer.append(helper.make_tensor(first, onnx.TensorProto.INT64, [1], [0]))

    def move(kind: str, source: str, to: str) -> onnx.NodeProto:
        node = helper.make_node(kind, [source], [to], name=f"{to}.{kind.lower()}")
        if opset >= _AXES_AS_INPUT:
            node.input.append(first)
        else:
            node.attribute.append(helper.make_attribute("axes", [0]))
        return node

    inner = f"{image.name}.one"
    rename(graph, image.name, inner)
    graph.node.insert(0, move("Squeeze", image.name, inner))
    for value in graph.output:
        rename(graph, value.name, f"{value.name}.one")
        graph.node.append(move("Unsqueeze", f"{value.name}.one", value.name))
    shape = onnx.TensorShapeProto()
    shape.dim.add(dim_value=1)
    shape.dim.extend(sides)
    image.type.tensor_type.shape.CopyFrom(shape)
    remark(
        f"{path} takes one image {image.name} without an axis of samples; the engine takes 1 x 3 x H x W, and each of "
        "its outputs has such an axis in front."
    )


def rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Renames a value where nodes make and read it, inside subgraphs as well."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename(attribute.g, old, new)


def _type_outputs(proto: onnx.ModelProto, path: Path) -> None:
    """Gives outputs without a type the one that they have; some editors of graphs leave it out."""
    if all(value.type.tensor_type.elem_type for value in proto.graph.output):
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
    except onnx.shape_inference.InferenceError as error:
        raise InputError(f"{path} is not a valid ONNX graph: {first_line(error)}") from error
    known = {value.name: value for value in (*inferred.graph.output, *inferred.graph.value_info)}
    for value in proto.graph.output:
        if not value.type.tensor_type.elem_type and value.name in known:
            value.CopyFrom(known[value.name])


def _check_outputs(graph: onnx.GraphProto, path: Path) -> None:
    """Holds the outputs to values that some node makes, each once."""
    made = {name for node in graph.node for name in node.output}
    names = [value.name for value in graph.output]
    for name in names:
        if name in made and names.count(name) == 1:
            continue
        if name in made:
            what = "is named twice: name it once"
        elif any(name == tensor.name for tensor in graph.initializer):
            what = "is a constant: leave that output out"
        elif any(name == value.name for value in graph.input):
            what = "is an input as it came: leave that output out"
        else:
            what = "is made by no node: export it again"
        raise InputError(f"{path}: output {name} {what}")
