"""For ONNX Runtime's INT8: a GELU is one operator.

Before::

    y = Mul(Mul(x, Add(Erf(Div(x, sqrt 2)), 1)), 0.5)

After::

    y = Gelu(x)

ONNX Runtime fuses these five in a float network. Behind a DequantizeLinear it does not: each reader of x gets a
DequantizeLinear of its own, so the two x are no longer one. The half may stand in front, and onnxsim multiplies it into
the weights behind where it can: those are doubled then, which is exact. A graph is lifted to opset 20, which has Gelu,
unless it holds what means something else there.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import array_of, constant, forget
from radixrt.export.graph.facts import holds_graphs, made_by
from radixrt.export.graph.layers import layers_of
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.report import PassResult

OPSET = 20
"""The first that has Gelu."""

_OTHERWISE = frozenset({"DFT", "GridSample"})
"""Operators that opset 20 spells in another way than 18 does."""


class OneGelu(Pass):
    """Writes every GELU that is spelled out as one operator."""

    def call(self, model: ir.Model) -> PassResult:
        graph = model.graph
        if any(node.op_type in _OTHERWISE or holds_graphs(node) for node in graph):
            return PassResult(model, modified=False)
        layers = {layer.node for layer in layers_of(graph)}
        writer = GraphWriter(graph)
        changed = False
        for node in list(graph):
            found = _match(node, layers)
            if found is None:
                continue
            x, whole, behind = found
            for layer in behind:
                _double(layer, writer)
            writer.commit(whole, writer.op("Gelu", [x], f"{whole.name}_gelu", shape=whole.shape, origin=node))
            changed = True
        if changed:
            graph.opset_imports[""] = max(graph.opset_imports[""], OPSET)
        return PassResult(model, modified=changed)


def _match(node: ir.Node, layers: set[ir.Node]) -> tuple[ir.Value, ir.Value, tuple[ir.Node, ...]] | None:
    """What a GELU reads, its result, and the layers whose weights took its half; ``node`` multiplies x by the curve."""
    if node.op_type != "Mul" or node.domain:
        return None
    for value, other in (node.inputs, reversed(node.inputs)):
        x, product = _curved(other), node.outputs[0]
        if x is None or value is None or x.dtype is not ir.DataType.FLOAT:
            continue
        if _beside(made_by(value, "Mul"), 0.5) is x:
            return x, product, ()
        if value is x:
            behind = product.consumers()
            if len(behind) == 1 and behind[0].op_type == "Mul" and _beside(behind[0], 0.5) is product:
                return x, behind[0].outputs[0], ()
            if _is_read_by(product, layers):
                return x, product, tuple(behind)
    return None


def _curved(value: ir.Value | None) -> ir.Value | None:
    """What a value of 1 + Erf(x / sqrt 2) is computed from, where it is one."""
    erf = made_by(_beside(made_by(value, "Add"), 1.0), "Erf")
    if erf is None:
        return None
    divided = made_by(erf.inputs[0], "Div")
    if divided is not None:
        x = _beside(divided, math.sqrt(2.0))
        return x if x is divided.inputs[0] else None
    return _beside(made_by(erf.inputs[0], "Mul"), math.sqrt(0.5))


def _beside(node: ir.Node | None, number: float) -> ir.Value | None:
    """What a node of two inputs reads beside a constant of one number."""
    if node is None:
        return None
    for value, other in (node.inputs, reversed(node.inputs)):
        found = constant(other)
        if found is not None and found.size == 1 and math.isclose(float(found.item()), number, rel_tol=1e-4):
            return value
    return None


def _is_read_by(value: ir.Value, layers: set[ir.Node]) -> bool:
    """Whether layers alone read a value, each as its data, whose weights can be doubled."""
    if value.is_graph_output() or not value.uses():
        return False
    for node, place in value.uses():
        weight = node.inputs[1] if node in layers and place == 0 else None
        if weight is None or len(weight.uses()) != 1 or not np.isfinite(array_of(weight) * 2).all():
            return False
    return True


def _double(layer: ir.Node, writer: GraphWriter) -> None:
    weight = layer.inputs[1]
    assert weight is not None
    layer.replace_input_with(1, writer.constant(array_of(weight) * 2, f"{weight.name}_doubled"))
    forget(writer.graph, weight)
