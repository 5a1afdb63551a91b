"""Grouped convolutions get the form their target runs best.

Before::

    y = Conv(x, W, b, group=G)                     W: (out, in/G, kh, kw)

After, one of (see :mod:`radixrt.export.passes.conv_shape`)::

    keep                 y = Conv(x, W, b, group=G)
    split                x_1 .. x_G = Split(x);  y_i = Conv(x_i, W_i, b_i);  y = Concat(y_1 .. y_G)
                         a Relu or Clip that alone reads y moves in front of the Concat, to each y_i
    merge, dense         y = Conv(x, blockdiag(W), b, group=G/factor)

Which one is the caller's choice, shape by shape; each is exact in real arithmetic. Depthwise convolutions are never
touched. Engines join an activation to a convolution; behind a Concat it would be an operation of its own, and in INT8 a
float one. A convolution whose weight is not a constant, or which is not 2-D, keeps its form, and the record says so.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from radixrt.export.graph.constants import array_of, is_constant
from radixrt.export.graph.facts import activation_after
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.writer import Attribute, GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.conv_shape import KEEP, ChooseForm, ConvShape, Form, block_diagonal, read_shape
from radixrt.export.passes.report import GroupedConvRecord, PassResult


@dataclass(frozen=True)
class GroupedConv(Pass):
    """Gives every grouped convolution the form that the chooser names. Shapes must be inferred.

    Attributes:
        choose: asked once per convolution; it must cache its answers if they are expensive.
        batch: images per run that the choice is made for, where the graph's batch is dynamic.
    """

    choose: ChooseForm
    batch: int = 1

    def call(self, model: ir.Model) -> PassResult:
        records: list[GroupedConvRecord] = []
        changed = False
        writer = GraphWriter(model.graph)
        for node in list(model.graph):
            groups = node.attributes.get_int("group", 1) if node.op_type == "Conv" and node.domain == "" else 1
            if groups == 1:
                continue
            conv = _match(node, self.batch)
            if isinstance(conv, _GroupedConv) and not conv.shape.grouped:
                continue
            form, why = (KEEP, conv) if isinstance(conv, str) else self.choose(conv.shape)
            if isinstance(conv, _GroupedConv) and form != KEEP:
                if form.kind == "split":
                    writer.commit(activation_after(node.outputs[0]), _split(conv, writer))
                else:
                    writer.commit(node.outputs[0], _widen(conv, form, writer))
                changed = True
            records.append(GroupedConvRecord(name=module_of(node), groups=groups, form=str(form), why=why))
        return PassResult(model, modified=changed, grouped_convs=tuple(records))


@dataclass(frozen=True, eq=False)
class _GroupedConv:
    """A grouped convolution whose weight and bias are constants."""

    node: ir.Node
    data: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    shape: ConvShape


def _match(node: ir.Node, batch: int) -> _GroupedConv | str:
    """The convolution, or the reason why it keeps its form. Depthwise convolutions are for the caller to leave."""
    shape = read_shape(node, batch)
    data, weight, *rest = node.inputs
    if isinstance(shape, str) or data is None or weight is None:
        return shape if isinstance(shape, str) else "the weight's shape is not known"
    bias = rest[0] if rest else None
    if shape.grouped:
        for value, what in ((weight, "weight"), (bias, "bias")):
            if value is not None and not is_constant(value):
                return f"the {what} is not a constant"
    return _GroupedConv(node=node, data=data, weight=weight, bias=bias, shape=shape)


def _widen(conv: _GroupedConv, form: Form, writer: GraphWriter) -> ir.Value:
    """Writes ``merge`` or ``dense``."""
    groups = conv.shape.groups
    if form.kind == "merge" and (form.factor < 2 or groups % form.factor):
        raise ValueError(f"cannot merge {groups} groups by {form.factor}")
    factor = groups if form.kind == "dense" else form.factor
    wide = writer.constant(
        block_diagonal(array_of(conv.weight), groups, factor), f"{conv.weight.name}_g{groups}x{factor}"
    )
    inputs = [conv.data, wide] if conv.bias is None else [conv.data, wide, conv.bias]
    attributes: dict[str, Attribute] = {**conv.node.attributes, "group": groups // factor}
    output = conv.node.outputs[0]
    return writer.op("Conv", inputs, f"{output.name}_wide", attributes, instead_of=conv.node)


def _split(conv: _GroupedConv, writer: GraphWriter) -> ir.Value:
    node, groups, output = conv.node, conv.shape.groups, conv.node.outputs[0]
    base, last = node.name or output.name, activation_after(output)
    activation = last.producer() if last is not output else None
    width_in, width_out = conv.shape.in_channels // groups, conv.shape.out_channels // groups
    sizes = writer.integers([width_in] * groups, f"split_sizes_{groups}x{width_in}")
    pieces = writer.ops(
        "Split",
        [conv.data, sizes],
        [f"{conv.data.name}_{base}_in{i}" for i in range(groups)],
        {"axis": 1},
        shapes=[_with_channels(conv.data, width_in)] * groups,
        node_name=f"{base}_split",
        instead_of=node,
    )
    attributes = {name: attribute for name, attribute in node.attributes.items() if name != "group"}
    results = []
    for i, piece in enumerate(pieces):
        rows = slice(i * width_out, (i + 1) * width_out)
        parameters = [value for value in (conv.weight, conv.bias) if value is not None]
        parts = [writer.constant(array_of(value)[rows], f"{value.name}_g{groups}_{i}") for value in parameters]
        result = writer.op(
            "Conv",
            [piece, *parts],
            f"{output.name}_{base}_out{i}",
            attributes,
            shape=_with_channels(output, width_out),
            node_name=f"{base}_{i}",
            instead_of=node,
        )
        results.append(result if activation is None else _activated(activation, result, writer))
    return writer.op(
        "Concat", results, f"{last.name}_{base}_joined", {"axis": 1}, node_name=f"{base}_concat", instead_of=node
    )


def _activated(activation: ir.Node, value: ir.Value, writer: GraphWriter) -> ir.Value:
    """A group's result behind the activation of the whole."""
    inputs, name = [value, *activation.inputs[1:]], f"{value.name}_activated"
    attributes = dict(activation.attributes)
    return writer.op(activation.op_type, inputs, name, attributes, shape=value.shape, origin=activation)


def _with_channels(value: ir.Value, channels: int) -> ir.Shape | None:
    if value.shape is None:
        return None
    images, _, *size = value.shape
    return ir.Shape([images, channels, *size])
