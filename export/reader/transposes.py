"""Moves transposes of feature maps down a graph until they meet and cancel, as in files that came from NHWC frameworks.

Before::

    x ──► Transpose(NHWC) ──┬──► ReduceMean(1, 2) ──► ... ──► gate (N, 1, 1, C) ──► Mul ──► Transpose(NCHW) ──► Conv
                            └──────────────────────────────────────────────────────►─┘

After::

    x ──┬──► ReduceMean(2, 3) ──► ... ──► gate ──► Reshape (N, C, 1, 1) ──► Mul ──► Conv
        └──────────────────────────────────────────────────────────────────►─┘

A transpose moves through elementwise operators, whose constants are turned the other way, through reductions, whose
axes are renamed, and into another transpose. It stays in front of anything else, and nothing changes where as many
elements would be moved as before. The result is held against the graph that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.export.reader.opset import run_once

_UNARY = frozenset({"Abs", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu"})
_UNARY |= {"Log", "Mish", "Neg", "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh"}
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin"})
_RANK = 4

Turned: TypeAlias = "ir.Value | Callable[[], ir.Value]"


def cancel_transposes(model: ir.Model) -> ir.Model:
    """Returns the graph with fewer elements to transpose, or ``model`` itself where there is nothing to gain."""
    if sum(_perm(node) is not None for node in model.graph) < 2:
        return model
    moved = model.clone()
    _Mover(moved.graph).run()
    common.RemoveUnusedNodesPass()(moved)
    if _transposed(moved) >= _transposed(model):
        return model
    before, after = (run_once(ir.to_proto(m), 2) for m in (model, moved))
    # The same float32 operations on the same numbers; only sums over another order of axes may round otherwise.
    if all(np.allclose(before[name], after[name], rtol=1e-4, atol=1e-5) for name in before):
        return moved
    return model


def _transposed(model: ir.Model) -> int:
    """How many elements of an image's maps are moved by transposes."""
    shapes = [node.outputs[0].shape for node in model.graph if _perm(node) is not None]
    return sum(prod(d for d in shape if isinstance(d, int)) for shape in shapes if shape is not None)


def _perm(node: ir.Node) -> tuple[int, ...] | None:
    """The order of a transpose of maps that leaves the batch in front."""
    perm = tuple(node.attributes.get_ints("perm", ())) if node.op_type == "Transpose" else ()
    return perm if len(perm) == _RANK and perm[0] == 0 else None


class _Mover:
    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._count = 0

    def run(self) -> None:
        pending = [node for node in self._graph if _perm(node) is not None]
        while pending:
            transpose = pending.pop()
            if transpose.graph is None:
                continue
            for reader in list(transpose.outputs[0].consumers()):
                if (made := self._through(transpose, reader)) is not None:
                    pending.extend(made)

    def _through(self, transpose: ir.Node, reader: ir.Node) -> list[ir.Node] | None:
        """Lets ``reader`` read what ``transpose`` reads; the transposes that then stand behind it, or None."""
        perm = _perm(transpose)
        output = reader.outputs[0]
        if perm is None or len(reader.outputs) != 1 or output.is_graph_output() or output.shape is None:
            return None
        if _perm(reader) is not None:
            return self._join(transpose, reader)
        if reader.op_type in _REDUCTIONS:
            return self._reduce(transpose, reader)
        if reader.op_type in _UNARY and reader.inputs[0] is transpose.outputs[0]:
            reader.replace_input_with(0, transpose.inputs[0])
            return [self._behind(reader, perm)]
        if reader.op_type not in _BINARY or len(output.shape) != _RANK:
            return None
        inputs = [self._turned(value, transpose, perm) for value in reader.inputs]
        if any(value is None for value in inputs):
            return None
        for index, value in enumerate(inputs):
            reader.replace_input_with(index, value() if callable(value) else value)
        return [self._behind(reader, perm)]

    def _join(self, transpose: ir.Node, reader: ir.Node) -> list[ir.Node]:
        first, second = _perm(transpose), _perm(reader)
        assert first is not None and second is not None
        joined = tuple(first[axis] for axis in second)
        source = transpose.inputs[0]
        if joined == tuple(range(_RANK)):
            assert source is not None
            ir.convenience.replace_all_uses_with(reader.outputs[0], source)
            self._graph.remove(reader, safe=True)
            return []
        reader.replace_input_with(0, source)
        reader.attributes["perm"] = ir.AttrInt64s("perm", joined)
        return [reader]

    def _reduce(self, transpose: ir.Node, reader: ir.Node) -> list[ir.Node] | None:
        perm = _perm(transpose)
        axes = reader.inputs[1].const_value if len(reader.inputs) > 1 and reader.inputs[1] is not None else None
        if perm is None or axes is None or reader.inputs[0] is not transpose.outputs[0]:
            return None
        reduced = [int(axis) % _RANK for axis in axes.numpy().ravel()]
        left = [perm[axis] for axis in range(_RANK) if axis not in reduced]
        kept = reader.attributes.get_int("keepdims", 1)
        if not reduced or (not kept and left != sorted(left)):
            return None
        reader.replace_input_with(0, transpose.inputs[0])
        reader.replace_input_with(1, self._constant(np.asarray(sorted(perm[axis] for axis in reduced), np.int64)))
        return [self._behind(reader, perm)] if kept else []

    def _turned(self, value: ir.Value | None, transpose: ir.Node, perm: Sequence[int]) -> Turned | None:
        """``value`` as it is in front of the transpose, or what makes it; None where that is not free."""
        if value is None:
            return None
        if value is transpose.outputs[0]:
            return transpose.inputs[0]
        maker = value.producer()
        if maker is not None and _perm(maker) == tuple(perm):
            return maker.inputs[0]
        back = np.argsort(perm)
        if value.const_value is not None:
            array = value.const_value.numpy()
            if array.size == 1:
                return value
            whole = array.reshape((1,) * (_RANK - array.ndim) + array.shape)
            return lambda: self._constant(np.ascontiguousarray(whole.transpose(back)))
        sides = list(value.shape) if value.shape is not None else []
        if len(sides) != _RANK or not all(isinstance(side, int) for side in sides[1:]):
            return None
        if sum(side != 1 for side in sides[1:]) > 1:
            return None
        # One axis is longer than one: turning it moves nothing.
        return lambda: self._reshaped(value, [0, *(int(str(sides[axis])) for axis in back[1:])])

    def _behind(self, node: ir.Node, perm: Sequence[int]) -> ir.Node:
        """Puts a transpose behind ``node``, for all that read it."""
        result = node.outputs[0]
        assert result.shape is not None
        new = ir.node("Transpose", [result], attributes={"perm": list(perm)}, name=self._name(node))
        turned = new.outputs[0]
        turned.name, turned.shape, turned.type = f"{new.name}.out", result.shape, result.type
        before = [result.shape[int(place)] for place in np.argsort(perm)]
        for use in tuple(result.uses()):
            if use.node is not new:
                use.node.replace_input_with(use.idx, turned)
        result.shape = ir.Shape(before)
        self._graph.insert_after(node, new)
        return new

    def _reshaped(self, value: ir.Value, target: list[int]) -> ir.Value:
        maker = value.producer()
        new = ir.node("Reshape", [value, self._constant(np.asarray(target, np.int64))], name=self._name(maker))
        result = new.outputs[0]
        result.name, result.type = f"{new.name}.out", value.type
        result.shape = ir.Shape([value.shape[0] if value.shape is not None else None, *target[1:]])
        if maker is None:
            self._graph.insert_before(self._graph[0], new)
        else:
            self._graph.insert_after(maker, new)
        return result

    def _constant(self, array: np.ndarray) -> ir.Value:
        self._count += 1
        name = f"turned.{self._count}"
        value = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
        )
        value.const_value = ir.tensor(array, name=name)
        self._graph.register_initializer(value)
        return value

    def _name(self, node: ir.Node | None) -> str:
        self._count += 1
        return f"{(node.name if node is not None else None) or 'input'}.turned.{self._count}"
