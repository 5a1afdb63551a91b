"""Moves transposes of feature maps down a graph until they meet and cancel, as in files that came from NHWC frameworks.

Before::

    x ──► Transpose(NHWC) ──┬──► ReduceMean(1, 2) ──► ... ──► gate (N, 1, 1, C) ──► Mul ──► Transpose(NCHW) ──► Conv
                            └──────────────────────────────────────────────────────►─┘

After::

    x ──┬──► ReduceMean(2, 3) ──► ... ──► gate ──► Reshape (N, C, 1, 1) ──► Mul ──► Conv
        └──────────────────────────────────────────────────────────────────►─┘

A transpose moves through elementwise operators, whose constants are turned the other way; through operators with axes
(reductions, Concat, Split, Slice, Pad, Resize, Softmax, ArgMax), which are renamed; into another transpose; and away
where a Reshape reads it and it moves no number. It stays in front of anything else. Where an image's axes are turned
somewhere behind the graph's input, they are first turned there, and back, so that what stands between is channels-first
too. Nothing changes where as many elements would be moved as before. The result is held against the graph that it came
from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.export.graph.constants import constant
from radixrt.export.graph.session import run_once
from radixrt.export.sides import Sides

_UNARY = frozenset({"Abs", "Cast", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"})
_UNARY |= {"Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign"}
_UNARY |= {"Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu"}
_BINARY = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "Sum", "Mean"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin", "ReduceL2"})
_ONE_AXIS = frozenset({"Softmax", "LogSoftmax", "Split"})
_RANK = 4
_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)

Turned: TypeAlias = "ir.Value | Callable[[], ir.Value]"


def cancel_transposes(model: ir.Model, sides: Sides | None = None) -> ir.Model:
    """Returns the graph with fewer elements to transpose, or ``model`` itself where there is nothing to gain.

    ``sides`` are those of its image, where they are free.
    """
    if all(_perm(node) is None for node in model.graph):
        return model
    moved = model.clone()
    mover = _Mover(moved.graph)
    mover.turn_images()
    mover.run()
    common.RemoveUnusedNodesPass()(moved)
    if _transposed(moved) >= _transposed(model):
        return model
    before, after = (run_once(ir.to_proto(m), 2, sides=sides) for m in (model, moved))
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
        self._of_images: set[ir.Node] = set()

    def run(self) -> None:
        pending = [node for node in self._graph if _perm(node) is not None and node not in self._of_images]
        while pending:
            transpose = pending.pop()
            if transpose.graph is None:
                continue
            for reader in list(transpose.outputs[0].consumers()):
                if (made := self._through(transpose, reader)) is not None:
                    pending.extend(made)

    def turn_images(self) -> None:
        """Turns each image that is channels-last where some map is turned to channels-first, and turns it back."""
        if all(_perm(node) != _TO_CHANNELS_FIRST for node in self._graph):
            return
        for image in self._graph.inputs:
            readers = list(image.uses())
            if image.shape is None or len(image.shape) != _RANK or not readers:
                continue
            if all(_perm(use.node) is not None for use in readers):
                continue
            first = ir.node("Transpose", [image], attributes={"perm": list(_TO_CHANNELS_FIRST)}, name=self._name(None))
            turned = first.outputs[0]
            turned.name, turned.type = f"{first.name}.out", image.type
            turned.shape = ir.Shape([image.shape[axis] for axis in _TO_CHANNELS_FIRST])
            back = ir.node("Transpose", [turned], attributes={"perm": list(_TO_CHANNELS_LAST)}, name=self._name(None))
            back.outputs[0].name, back.outputs[0].type = f"{back.name}.out", image.type
            back.outputs[0].shape = image.shape
            for use in readers:
                use.node.replace_input_with(use.idx, back.outputs[0])
            self._graph.insert_before(self._graph[0], [first, back])
            # It would cancel its own inverse.
            self._of_images.add(first)

    def _through(self, transpose: ir.Node, reader: ir.Node) -> list[ir.Node] | None:
        """Lets ``reader`` read what ``transpose`` reads; the transposes that then stand behind it, or None."""
        perm = _perm(transpose)
        output = reader.outputs[0]
        if perm is None or any(value.is_graph_output() or value.shape is None for value in reader.outputs):
            return None
        if _perm(reader) is not None:
            return self._join(transpose, reader)
        if reader.op_type in _REDUCTIONS or reader.op_type in ("ArgMax", "ArgMin"):
            return self._reduce(transpose, reader)
        if reader.inputs[0] is transpose.outputs[0]:
            if reader.op_type == "Reshape":
                return self._reshape(transpose, reader)
            if reader.op_type in _ONE_AXIS:
                return self._rename(transpose, reader)
            if reader.op_type in ("Slice", "Pad", "Resize") and (inputs := self._by_axis(reader, perm)) is not None:
                reader.resize_inputs(1 + len(inputs))
                for index, value in enumerate([transpose.inputs[0], *inputs]):
                    reader.replace_input_with(index, value)
                return [self._behind(reader.outputs[0], perm)]
        if reader.op_type in _UNARY and reader.inputs[0] is transpose.outputs[0]:
            reader.replace_input_with(0, transpose.inputs[0])
            return [self._behind(output, perm)]
        if reader.op_type not in _BINARY | {"Concat"} or output.shape is None or len(output.shape) != _RANK:
            return None
        turned = [self._turned(value, transpose, perm) for value in reader.inputs]
        if any(value is None for value in turned):
            return None
        for index, new in enumerate(turned):
            reader.replace_input_with(index, new() if callable(new) else new)
        if reader.op_type == "Concat":
            axis = reader.attributes.get_int("axis", 0) % _RANK
            reader.attributes["axis"] = ir.AttrInt64("axis", perm[axis])
        return [self._behind(output, perm)]

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
        if reader.op_type in ("ArgMax", "ArgMin"):
            axes: np.ndarray | None = np.asarray([reader.attributes.get_int("axis", 0)])
        else:
            axes = constant(reader.inputs[1]) if len(reader.inputs) > 1 else None
        if perm is None or axes is None or reader.inputs[0] is not transpose.outputs[0]:
            return None
        reduced = [int(axis) % _RANK for axis in axes.ravel()]
        left = [perm[axis] for axis in range(_RANK) if axis not in reduced]
        kept = reader.attributes.get_int("keepdims", 1)
        if not reduced or (not kept and left != sorted(left)):
            return None
        reader.replace_input_with(0, transpose.inputs[0])
        renamed = sorted(perm[axis] for axis in reduced)
        if reader.op_type in _REDUCTIONS:
            reader.replace_input_with(1, self._constant(np.asarray(renamed, np.int64)))
        else:
            reader.attributes["axis"] = ir.AttrInt64("axis", renamed[0])
        return [self._behind(reader.outputs[0], perm)] if kept else []

    def _reshape(self, transpose: ir.Node, reader: ir.Node) -> list[ir.Node] | None:
        """A Reshape reads what lies in memory, which a transpose of a single long axis does not change."""
        source, target = transpose.inputs[0], constant(reader.inputs[1])
        perm, shape = _perm(transpose), source.shape if source is not None else None
        if perm is None or shape is None or target is None or (target.ravel()[1:] == 0).any():
            return None
        longer = [axis for axis in perm if shape[axis] != 1]
        if longer != sorted(longer):
            return None
        reader.replace_input_with(0, source)
        return []

    def _rename(self, transpose: ir.Node, reader: ir.Node) -> list[ir.Node]:
        perm = _perm(transpose)
        assert perm is not None
        axis = reader.attributes.get_int("axis", 0 if reader.op_type == "Split" else -1) % _RANK
        reader.attributes["axis"] = ir.AttrInt64("axis", perm[axis])
        reader.replace_input_with(0, transpose.inputs[0])
        return [self._behind(value, perm) for value in reader.outputs]

    def _by_axis(self, reader: ir.Node, perm: Sequence[int]) -> list[ir.Value | None] | None:
        """The inputs after the first of an operator that is told something of each axis; None where it is computed."""
        given = [(value, constant(value)) for value in reader.inputs[1:]]
        if any(value is not None and array is None for value, array in given):
            return None
        numbers = [array for _, array in given]
        back = np.argsort(perm)
        if reader.op_type == "Slice":
            starts, ends, axes, *steps = [*numbers, None, None][:4] if len(numbers) < 4 else numbers
            assert starts is not None and ends is not None
            named = np.arange(starts.size) if axes is None else axes.ravel() % _RANK
            turned = [starts, ends, np.asarray([perm[int(axis)] for axis in named], np.int64), *steps]
        elif reader.op_type == "Pad":
            if len(numbers) > 2 and numbers[2] is not None:
                return None
            assert numbers[0] is not None
            turned = [numbers[0].reshape(2, _RANK)[:, back].ravel(), *numbers[1:]]
        else:
            crops = reader.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
            if crops or "axes" in reader.attributes:
                return None
            turned = [array if array is None or array.size != _RANK else array.ravel()[back] for array in numbers]
        return [
            value if array is None or array is old else self._constant(np.ascontiguousarray(array))
            for (value, old), array in zip([*given, (None, None)], turned, strict=False)
        ]

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
        if (array := constant(value)) is not None:
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

    def _behind(self, result: ir.Value, perm: Sequence[int]) -> ir.Node:
        """Puts a transpose behind what makes ``result``, for all that read it."""
        node = result.producer()
        assert node is not None and result.shape is not None
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
