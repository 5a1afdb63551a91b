"""Executes a region before and after its rewrite on random inputs, and says how far apart the results are.

Both sides run in float64 on ONNX's reference operators, so that what is compared is algebra and not rounding: the
replaced nodes as the exporter wrote them, and the new nodes with the weights they will ship with. Where an operator
cannot run in float64 there, onnxruntime runs both in their own type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from radixrt.export.graph.session import open_session
from radixrt.export.graph.shapes import Array, Concrete

_FLOATS = (np.float16, np.float32)


@dataclass(frozen=True)
class Tolerance:
    """``|after - before| <= atol + rtol * max |before|``.

    Folded weights are rounded to the graph's type once more than the originals were, so even in float64 the two sides
    part by the type's epsilon times the few hundred terms of an FC, damped by the gate.
    """

    atol: float
    rtol: float


FLOAT32 = Tolerance(atol=1e-6, rtol=1e-5)
FLOAT16 = Tolerance(atol=2e-3, rtol=5e-3)


@dataclass(frozen=True)
class Proof:
    """What one comparison showed; ``reason`` is None where it held."""

    max_abs_err: float
    reason: str | None = None


def prove(
    before: Sequence[ir.Node],
    after: Sequence[ir.Node],
    outputs: tuple[ir.Value, ir.Value],
    found: Concrete,
) -> Proof:
    """Compares two ways to compute one tensor.

    Args:
        before: the nodes to be replaced, in order; ``found`` knows the shapes of what they read.
        after: the nodes to replace them, in order.
        outputs: the tensor as ``before`` and as ``after`` name it.
        found: shapes and constants of the graph that ``before`` stands in.
    """
    inputs = _outer_inputs([*before, *after], found)
    missing = [value.name for value in inputs if value not in found.shapes]
    if missing:
        return Proof(float("nan"), f"the shape of {missing[0]!r} is not known, so the rewrite cannot be checked")
    random = np.random.default_rng(0)
    dtype = ir.DataType(found.types[outputs[0]].tensor_type.elem_type)
    feeds = {value: random.standard_normal(found.shapes[value]).astype(dtype.numpy()) for value in inputs}
    tolerance = FLOAT16 if dtype == ir.DataType.FLOAT16 else FLOAT32
    try:
        left, right = (
            _run(nodes, v, feeds, found, double=True) for nodes, v in zip((before, after), outputs, strict=True)
        )
    except Exception:  # the reference operators raise whatever numpy does; onnxruntime is the second witness
        try:
            left, right = (
                _run(nodes, v, feeds, found, double=False) for nodes, v in zip((before, after), outputs, strict=True)
            )
        except Exception as failure:
            return Proof(float("nan"), f"its proof could not be executed ({type(failure).__name__})")
    if left.shape != right.shape:
        return Proof(float("nan"), f"the rewrite changes the shape from {left.shape} to {right.shape}")
    error = float(np.max(np.abs(left.astype(np.float64) - right.astype(np.float64)), initial=0.0))
    limit = tolerance.atol + tolerance.rtol * float(np.max(np.abs(left), initial=0.0))
    if not error <= limit:
        return Proof(error, f"before and after differ by {error:.3g}, more than {limit:.3g}")
    return Proof(error)


def region(nodes: Sequence[ir.Node], output: ir.Value, inputs: Mapping[str, Array], opset: int) -> onnx.ModelProto:
    """A model of some nodes of a graph, that reads ``inputs`` by name, whose types and shapes it takes."""
    graph = onnx.GraphProto(name="region", node=map(ir.serde.serialize_node, nodes))
    for name, array in inputs.items():
        elem = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(name, elem, array.shape))
    graph.output.append(onnx.ValueInfoProto(name=output.name))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


def _outer_inputs(nodes: Sequence[ir.Node], found: Concrete) -> list[ir.Value]:
    """What the nodes read that none of them makes and that is no constant."""
    made = {value for node in nodes for value in node.outputs}
    read = (value for node in nodes for value in node.inputs if value is not None)
    return list(dict.fromkeys(v for v in read if v not in made and found.constant(v) is None))


def _run(
    nodes: Sequence[ir.Node], output: ir.Value, feeds: dict[ir.Value, Array], found: Concrete, *, double: bool
) -> Array:
    arrays: dict[str, Array] = {}
    made = {value for node in nodes for value in node.outputs}
    for node in nodes:
        for value in node.inputs:
            if value is None or value in made:
                continue
            constant = found.constant(value)
            arrays[value.name or ""] = feeds[value] if constant is None else constant
    if double:
        arrays = {name: a.astype(np.float64) if a.dtype in _FLOATS else a for name, a in arrays.items()}
    owner = next((node.graph for node in nodes if node.graph is not None), None) or next(iter(feeds)).graph
    model = region(nodes, output, arrays, owner.opset_imports.get("", 18) if owner is not None else 18)
    if double:
        (result,) = ReferenceEvaluator(model).run(None, arrays)
        return np.asarray(result)
    model.ir_version = min(model.ir_version, 10)
    (result,) = open_session(model, optimize=True).run(None, arrays)
    return np.asarray(result)
