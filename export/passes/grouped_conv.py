"""Grouped convolutions get the form their target runs best.

Before::

    y = Conv(x, W, b, group=G)                     W: (out, in/G, kh, kw)

After, one of (see :mod:`radixrt.export.passes.conv_shape`)::

    keep                 y = Conv(x, W, b, group=G)
    split                x_1 .. x_G = Split(x);  y_i = Conv(x_i, W_i, b_i);  y = Concat(y_1 .. y_G)
    merge, dense         y = Conv(x, blockdiag(W), b, group=G/factor)

Which one is the caller's choice, shape by shape; each is exact in real arithmetic. Depthwise convolutions are never
touched. A convolution whose weight is not a constant, or which is not 2-D, keeps its form, and the record says so.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import array_of, forget, initializer, is_constant
from radixrt.export.graph.origin import module_of, take_place
from radixrt.export.passes.conv_shape import KEEP, ChooseForm, ConvShape, Form, block_diagonal, read_shape
from radixrt.export.passes.report import GroupedConvRecord


def apply_forms(
    model: ir.Model, chooser: ChooseForm, *, batch: int = 1
) -> tuple[ir.Model, list[GroupedConvRecord], bool]:
    """Gives every grouped convolution the form that the chooser names. Changes the model in place.

    Args:
        model: shapes inferred; weights are initializers or Constant nodes.
        chooser: asked once per convolution (it caches if asking is dear).
        batch: images per run that the choice is made for, where the graph's batch is dynamic.

    Returns:
        The model, one record per grouped convolution, and whether anything changed.
    """
    records: list[GroupedConvRecord] = []
    changed = False
    for node in list(model.graph):
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx") or _groups(node) == 1:
            continue
        shape = read_shape(node, batch)
        if isinstance(shape, ConvShape) and not shape.grouped:
            continue
        groups, (form, why) = _groups(node), _decide(node, shape, chooser)
        if form != KEEP and isinstance(shape, ConvShape):
            _rewrite(model.graph, node, shape, form)
            changed = True
        records.append(GroupedConvRecord(name=module_of(node), groups=groups, form=str(form), why=why))
    return model, records, changed


def _groups(node: ir.Node) -> int:
    attribute = node.attributes.get("group")
    return attribute.as_int() if attribute is not None else 1


def _decide(node: ir.Node, shape: ConvShape | str, chooser: ChooseForm) -> tuple[Form, str]:
    if isinstance(shape, str):
        return KEEP, shape
    for value, what in zip(node.inputs[1:], ("weight", "bias"), strict=False):
        if value is not None and not is_constant(value):
            return KEEP, f"the {what} is not a constant"
    form, why = chooser(shape)
    if form.kind == "merge" and (form.factor < 2 or shape.groups % form.factor):
        raise ValueError(f"cannot merge {shape.groups} groups by {form.factor}")
    return form, why


def _rewrite(graph: ir.Graph, node: ir.Node, shape: ConvShape, form: Form) -> None:
    old_inputs = [value for value in node.inputs[1:] if value is not None]
    if form.kind == "split":
        _split(graph, node, shape)
    else:
        factor = shape.groups if form.kind == "dense" else form.factor
        weight = node.inputs[1]
        assert weight is not None, "checked by _decide"
        wide = block_diagonal(array_of(weight), shape.groups, factor)
        node.replace_input_with(1, initializer(graph, f"{weight.name}_g{shape.groups}x{factor}", wide))
        node.attributes["group"] = ir.AttrInt64("group", shape.groups // factor)
    for value in old_inputs:
        forget(graph, value)


def _split(graph: ir.Graph, node: ir.Node, shape: ConvShape) -> None:
    data, weight, bias = node.inputs[0], node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    assert data is not None and weight is not None, "checked by read_shape"
    output, groups, base = node.outputs[0], shape.groups, node.name or node.outputs[0].name
    width_in, width_out = shape.in_channels // groups, shape.out_channels // groups

    def part_of(whole: ir.Value, channels: int, suffix: str) -> ir.Value:
        part_shape = None
        if whole.shape is not None:
            images, _, *size = whole.shape
            part_shape = ir.Shape([images, channels, *size])
        return ir.Value(name=f"{whole.name}_{base}_{suffix}", shape=part_shape, type=whole.type)

    new: list[ir.Node] = []

    def add(op: str, inputs: list[ir.Value], attributes: list[ir.Attr], outputs: list[ir.Value], suffix: str) -> None:
        made = ir.Node("", op, inputs, attributes, outputs=outputs, name=f"{base}_{suffix}")
        take_place(node, made)
        new.append(made)

    axis = [ir.AttrInt64("axis", 1)]
    attributes = [a for name, a in node.attributes.items() if name != "group"]
    pieces = [part_of(data, width_in, f"in{i}") for i in range(groups)]
    results = [part_of(output, width_out, f"out{i}") for i in range(groups)]
    sizes = initializer(graph, f"split_sizes_{groups}x{width_in}", np.full(groups, width_in, np.int64))
    add("Split", [data, sizes], axis, pieces, "split")
    for i in range(groups):
        rows = slice(i * width_out, (i + 1) * width_out)
        inputs = [pieces[i], initializer(graph, f"{weight.name}_g{groups}_{i}", array_of(weight)[rows])]
        if bias is not None:
            inputs.append(initializer(graph, f"{bias.name}_g{groups}_{i}", array_of(bias)[rows]))
        add("Conv", inputs, attributes, [results[i]], str(i))
    joined = ir.Value(name=output.name, shape=output.shape, type=output.type)
    add("Concat", results, axis, [joined], "concat")
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [output], [joined])
