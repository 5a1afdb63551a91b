"""A float32 graph becomes a strongly typed FP16 graph: precision as tensor types, with float32 at the borders.

Before::

    input f32 ──► Conv(W f32) ──► ... ──► logits f32

After::

    input f32 ──► Cast f16 ──► Conv(W f16) ──► ... ──► Cast f32 ──► logits f32

Q/DQ graphs are typed as well: the scales become FP16 (QuantizeLinear and DequantizeLinear take them from opset 19
on), so INT8 layers sit between FP16 ones as TensorRT >= 10 wants it. Integers stay what they are.

Kept in float32, each with its reason: operators that ONNX defines for float32 alone (NonMaxSuppression, Celu); nodes
with a weight beyond FP16's largest number; Q/DQ pairs whose scale FP16 cannot hold to 0.2 percent (very small scales
are subnormal there, or zero). A Cast stands at each border.

Refused: graphs with subgraphs (If, Loop, Scan), and weights that are NaN or infinite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common
from numpy.typing import NDArray

from radixrt.errors import InputError
from radixrt.export.graph.constants import constant
from radixrt.export.graph.facts import holds_graphs
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.report import Float32Node, PassResult

_HALF_MAX = float(np.finfo(np.float16).max)
_SCALE_ERROR = 2.0**-9
_OPSET_OF_HALF_SCALES = 19
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
_PAIRS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Inputs that bound values: beyond FP16's range they bound nothing, so clamping them changes nothing.
_BOUNDS = {"Clip": frozenset({1, 2}), "Min": frozenset({0, 1}), "Max": frozenset({0, 1})}


def to_float16(model: ir.Model) -> PassResult:
    """Types a float32 graph as FP16.

    Args:
        model: a float32 graph, with or without Q/DQ pairs; it is not changed.

    Returns:
        The typed graph, whose inputs and outputs are float32 still, and the nodes that stayed in float32.

    Raises:
        InputError: the graph holds subgraphs, or a weight is NaN or infinite.
    """
    typed = model.clone()
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(typed)
    common.ShapeInferencePass()(typed)
    for node in typed.graph:
        if holds_graphs(node):
            raise InputError(
                f"the node {node.name!r} ({node.op_type}) holds a subgraph: export the model without control flow"
            )
    if any(n.op_type in _PAIRS for n in typed.graph):
        typed.opset_imports[""] = max(typed.opset_imports.get("", 0), _OPSET_OF_HALF_SCALES)
        typed.ir_version = max(typed.ir_version, 9)
    opset = typed.opset_imports[""]
    kept = tuple(
        Float32Node(node=_key(node), module=module_of(node), reason=reason)
        for node in typed.graph
        if (reason := _reason(node, opset)) is not None
    )
    _Typer(typed.graph, {k.node for k in kept}, opset).run()
    return PassResult(typed, modified=True, float32_nodes=kept)


def _key(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


def _takes_half(node: ir.Node, index: int, opset: int) -> bool:
    """Whether an input of a node may be FP16 by the definition of its operator."""
    if node.domain or not onnx.defs.has(node.op_type):
        return True
    inputs = onnx.defs.get_schema(node.op_type, opset).inputs
    return not inputs or "tensor(float16)" in inputs[min(index, len(inputs) - 1)].types


def _reason(node: ir.Node, opset: int) -> str | None:
    first = node.inputs[0] if node.inputs else None
    if first is not None and first.dtype == ir.DataType.FLOAT and not _takes_half(node, 0, opset):
        return f"{node.op_type} is defined for float32 alone"
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is None or value is None or array.dtype != np.float32 or index in _BOUNDS.get(node.op_type, ()):
            continue
        if not np.isfinite(array).all():
            raise InputError(f"the weight {value.name!r} holds NaN or infinite values: mend the checkpoint")
        if node.op_type in _PAIRS and index == 1:
            with np.errstate(over="ignore"):
                error = np.abs(array.astype(np.float16).astype(np.float64) - array) / np.abs(array)
            if not (error <= _SCALE_ERROR).all():
                return f"a scale of {float(array.min()):.3g} has no close FP16 number"
        elif float(np.abs(array).max(initial=0.0)) > _HALF_MAX:
            return f"the weight {value.name!r} reaches {float(np.abs(array).max()):.3g}, FP16 ends at {_HALF_MAX:.0f}"
    return None


@dataclass
class _Typer:
    """Rewrites one graph of an ``opset`` in place; ``kept`` holds the names of nodes that stay in float32."""

    graph: ir.Graph
    kept: set[str]
    opset: int
    _half: set[int] = field(default_factory=set)
    _casts: dict[tuple[int, ir.DataType], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._writer = GraphWriter(self.graph)

    def run(self) -> None:
        for node in list(self.graph):
            self._node(node)
        for index, output in enumerate(list(self.graph.outputs)):
            if id(output) in self._half:
                self._output(index, output)
        self._writer.append()
        for name in [n for n, v in self.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
            del self.graph.initializers[name]

    def _node(self, node: ir.Node) -> None:
        kind = ir.DataType.FLOAT if _key(node) in self.kept else ir.DataType.FLOAT16
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(kind))
        elif not any(v is not None and v.dtype in _FLOATS for v in node.inputs):
            kind = ir.DataType.FLOAT  # makes floats from integers alone: what it makes is typed by its definition
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in _FLOATS and node.op_type != "Cast":
                wanted = kind if _takes_half(node, index, self.opset) else ir.DataType.FLOAT
                node.replace_input_with(index, self._as(value, wanted))
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT and kind == ir.DataType.FLOAT16:
                value.type = ir.TensorType(ir.DataType.FLOAT16)  # a clone shares type objects: replace, never mutate
                self._half.add(id(value))

    def _as(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """``value`` as ``wanted``: itself, a converted constant, or a Cast."""
        if value.dtype == wanted:
            return value
        key = (id(value), wanted)
        if key not in self._casts:
            array = constant(value)
            self._casts[key] = self._cast(value, wanted) if array is None else self._constant(value, array)
        return self._casts[key]

    def _constant(self, value: ir.Value, array: NDArray[Any]) -> ir.Value:
        # Only bounds can lie outside here: weights beyond the range keep their node in float32.
        return self._writer.constant(np.clip(array, -_HALF_MAX, _HALF_MAX).astype(np.float16), f"{value.name}_f16")

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = f"{value.name}_{'f16' if wanted == ir.DataType.FLOAT16 else 'f32'}"
        to = {"to": int(wanted)}
        cast = self._writer.op("Cast", [value], name, to, dtype=wanted, shape=value.shape, origin=value.producer())
        self._writer.insert_behind(value)
        return cast

    def _output(self, index: int, output: ir.Value) -> None:
        name = output.name
        output.name = self._writer.unique(f"{name}_f16")
        cast = self._cast(output, ir.DataType.FLOAT)
        cast.name = name
        self.graph.outputs[index] = cast
