"""The operators between a global pool and its gate, read as affine maps, activations and layout.

Part of the recogniser's interpretation (:mod:`radixrt.export.attention.interpret`). Understood: convolutions whose
window sees one pixel, Gemm and MatMul with constant weights, BatchNormalization, arithmetic with constants, whatever is
piecewise linear (:mod:`radixrt.export.attention.interpret_elementwise`), other elementwise activations (also spelled
out, as ``x * sigmoid(x)``), Softmax over one axis, and every layout operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from scipy import sparse

from radixrt.export.attention.activations import logistic, product
from radixrt.export.attention.affine import Activated, Affine, identity, stack
from radixrt.export.attention.interpret_elementwise import choice, elementwise
from radixrt.export.attention.piecewise import plainest
from radixrt.export.attention.values import LAYOUT_OPS, Abstract, Small, axes_of, dims_axis, relocate, without
from radixrt.export.graph.shapes import Concrete

_PLAIN = frozenset({"Sigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Mish", "Erf", "Exp"})


class State(Protocol):
    """The part of an interpretation that this module reads and writes."""

    found: Concrete
    known: dict[ir.Value, Abstract]


def small_node(node: ir.Node, state: State) -> bool:
    """Interprets ``node`` where one of its inputs is small; says whether it was understood."""
    inputs = [state.known.get(v) if v is not None else None for v in node.inputs]
    smalls = [s for s in inputs if isinstance(s, Small)]
    if not smalls:
        return False
    results = (
        _spread(node, smalls[0], state) if any(s.spread for s in smalls) else _interpret(node, inputs, smalls, state)
    )
    if results is None:
        return False
    for value, result in zip(node.outputs, results, strict=False):
        shape = state.found.shapes.get(value)
        if shape is None or (not result.spread and result.dims != without(shape, result.batch)):
            return False
    for value, result in zip(node.outputs, results, strict=False):
        state.known[value] = result
    return True


def _spread(node: ir.Node, small: Small, state: State) -> list[Small] | None:
    return [small] if node.op_type == "Identity" else None


def _interpret(
    node: ir.Node, inputs: Sequence[Abstract | None], smalls: list[Small], state: State
) -> list[Small] | None:
    small = smalls[0]
    if node.op_type in LAYOUT_OPS:
        return _layout(node, inputs, smalls, state.found)
    if small.batch:
        # Tensors stacked along a new first axis: only what leaves the batch where it is.
        alone = len(smalls) == 1 and inputs[0] is small
        if not alone:
            return None
        return elementwise(node, state.known, state.found) or _activate(node, small, state.found)
    bent = elementwise(node, state.known, state.found) or choice(node, state.known, state.found)
    if bent is not None:
        return bent
    if node.op_type in ("Expand", "Tile", "Resize") and inputs[0] is small:
        return _expand(node, small, state.found)
    if len(smalls) == 2 and len(node.inputs) == 2:
        return _binary(node, *smalls)
    if len(smalls) == len(node.inputs) > 1 and node.op_type == "Sum":
        return _sum(smalls)
    if len(smalls) != 1:
        return None
    if node.op_type in ("Add", "Sub", "Mul", "Div") and len(node.inputs) == 2:
        return _arithmetic(node, small, isinstance(inputs[0], Small), state.found)
    if not isinstance(inputs[0], Small):
        return None
    if node.op_type in ("Conv", "Gemm", "MatMul"):
        return _linear(node, small, state.found)
    if node.op_type == "Neg":
        return [Small(small.vector.scale(np.full(small.vector.size, -1.0)), small.dims)]
    if node.op_type == "BatchNormalization":
        return _normalise(node, small, state.found)
    if node.op_type in ("ReduceSum", "ReduceMean"):
        return _reduce(node, small, state.found)
    return _activate(node, small, state.found)


def _layout(
    node: ir.Node, inputs: Sequence[Abstract | None], smalls: list[Small], found: Concrete
) -> list[Small] | None:
    if node.op_type == "Concat":
        if len(smalls) != len(node.inputs):
            return None
        batch = smalls[0].batch
        axis = dims_axis(node.attributes["axis"].as_int(), 1 + len(smalls[0].dims), batch)
        if axis is None or any(s.batch != batch for s in smalls):
            return None
        starts = np.cumsum([0, *(s.vector.size for s in smalls)])
        numbers = [start + np.arange(s.vector.size).reshape(s.dims) for start, s in zip(starts, smalls, strict=False)]
        order = np.concatenate(numbers, axis)
        return [Small(stack([s.vector for s in smalls]).take(order.ravel()), order.shape, batch=batch)]
    if not isinstance(inputs[0], Small):
        return None
    moved = relocate(node, smalls[0], found)
    if moved is None:
        return None
    return [Small(smalls[0].vector.take(m.index.ravel()), m.index.shape, batch=m.batch) for m in moved]


def _expand(node: ir.Node, small: Small, found: Concrete) -> list[Small] | None:
    """Expand to the shape it has, to more channels, or over space (which a Mul would have done by itself).

    So does a Tile, and a Resize of one pixel, which has nothing to interpolate.
    """
    after = found.shapes[node.outputs[0]][1:]
    outside = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if node.op_type == "Resize" and (outside or after[:-2] != small.dims[:-2]):
        return None
    if node.op_type == "Tile" and any(b not in (1, a) for a, b in zip(after, small.dims, strict=False)):
        return None
    if len(after) != len(small.dims):
        return None
    numbers = np.arange(small.vector.size).reshape(small.dims)
    if len(after) > 2 and small.dims[-2:] == (1, 1) and prod(after[-2:]) > 1:
        if after[:-2] != small.dims[:-2]:
            return None
        return [Small(small.vector, small.dims[:-2], spread=True)]
    if prod(after) > 1 << 16:
        return None
    return [Small(small.vector.take(np.broadcast_to(numbers, after).ravel()), after)]


def _binary(node: ir.Node, left: Small, right: Small) -> list[Small] | None:
    dims = np.broadcast_shapes(left.dims, right.dims) if len(left.dims) == len(right.dims) else None
    if dims is None:
        return None
    a, b = _spread_to(left, dims), _spread_to(right, dims)
    if node.op_type == "Add":
        return [Small(plainest(a.plus(b)), dims)]
    if node.op_type == "Sub":
        return [Small(plainest(a.plus(b.scale(np.full(b.size, -1.0)))), dims)]
    if node.op_type == "Mul":
        multiplied = product(a, b)
        return None if multiplied is None else [Small(multiplied, dims)]
    return None


def _sum(smalls: list[Small]) -> list[Small] | None:
    if len({s.dims for s in smalls}) != 1:
        return None
    total = smalls[0].vector
    for small in smalls[1:]:
        total = total.plus(small.vector)
    return [Small(plainest(total), smalls[0].dims)]


def _spread_to(small: Small, dims: tuple[int, ...]) -> Affine:
    numbers = np.arange(small.vector.size).reshape(small.dims)
    return small.vector.take(np.broadcast_to(numbers, dims).ravel())


def _arithmetic(node: ir.Node, small: Small, first: bool, found: Concrete) -> list[Small] | None:
    """``small op constant`` or, where not ``first``, ``constant op small``."""
    constant = found.constant(node.inputs[1 if first else 0])
    if constant is None:
        return None
    try:
        dims = np.broadcast_shapes((1, *small.dims), constant.shape)
    except ValueError:
        return None
    if dims[0] != 1 or len(dims) != 1 + len(small.dims):
        return None
    values = np.broadcast_to(constant.astype(np.float64), dims).ravel()
    vector = _spread_to(small, dims[1:])
    if node.op_type == "Div" and not first:
        sigmoid = logistic(vector, values)
        return None if sigmoid is None else [Small(sigmoid, dims[1:])]
    if node.op_type == "Div":
        if not values.all():
            return None
        values = 1.0 / values
    if node.op_type in ("Mul", "Div"):
        return [Small(vector.scale(values), dims[1:])]
    if node.op_type == "Sub":
        vector, values = (vector, -values) if first else (vector.scale(np.full(vector.size, -1.0)), values)
    return [Small(vector.shift(values), dims[1:])]


def _linear(node: ir.Node, small: Small, found: Concrete) -> list[Small] | None:
    constants = [found.constant(v) for v in node.inputs[1:]]
    if (
        not constants
        or constants[0] is None
        or (len(node.inputs) > 2 and node.inputs[2] is not None and constants[1] is None)
    ):
        return None
    weight = constants[0].astype(np.float64)
    bias = constants[1].astype(np.float64) if len(constants) > 1 and constants[1] is not None else None
    after = found.shapes[node.outputs[0]][1:]
    if node.op_type == "Conv":
        matrix = _conv_matrix(node, small, weight, after)
    elif node.op_type == "Gemm":
        if _number(node, "transA", 0.0) or len(small.dims) != 1:
            return None
        matrix = sparse.csr_matrix((weight if _number(node, "transB", 0.0) else weight.T) * _number(node, "alpha", 1.0))
        bias = (
            None if bias is None else np.broadcast_to(bias, (1, matrix.shape[0])).ravel() * _number(node, "beta", 1.0)
        )
    else:
        # A MatMul mixes the last axis only: the small tensor must have no other.
        if weight.ndim != 2 or small.dims[-1:] != (small.vector.size,):
            return None
        matrix = sparse.csr_matrix(weight.T)
    if matrix is None or matrix.shape[1] != small.vector.size:
        return None
    vector = small.vector.apply(matrix)
    return [Small(vector if bias is None else vector.shift(bias), after)]


def _conv_matrix(
    node: ir.Node, small: Small, weight: npt.NDArray[np.float64], after: tuple[int, ...]
) -> sparse.csr_matrix | None:
    """A convolution on a map of one pixel: the weights that meet the pixel, block-diagonal over the groups."""
    space = weight.ndim - 2
    pads = tuple(node.attributes.get_ints("pads", (0,) * (2 * space)))
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID") and prod(weight.shape[2:]) != 1:
        return None
    if len(small.dims) != 1 + space or prod(small.dims[1:]) != 1 or prod(after[1:]) != 1:
        return None
    dilations = node.attributes.get_ints("dilations", (1,) * space)
    at = [pad // d if pad % d == 0 else -1 for pad, d in zip(pads[:space], dilations, strict=True)]
    if any(not 0 <= a < k for a, k in zip(at, weight.shape[2:], strict=True)):
        return None
    seen = weight.reshape(*weight.shape[:2], -1)[:, :, int(np.ravel_multi_index(tuple(at), weight.shape[2:]))]
    per_group = np.split(seen, int(_number(node, "group", 1)), axis=0)
    return sparse.csr_matrix(sparse.block_diag(per_group, format="csr"))


def _normalise(node: ir.Node, small: Small, found: Concrete) -> list[Small] | None:
    constants = [found.constant(v) for v in node.inputs[1:5]]
    if any(c is None for c in constants) or _number(node, "training_mode", 0.0):
        return None
    scale, bias, mean, var = (c.astype(np.float64) for c in constants if c is not None)
    if scale.size != small.dims[0]:
        return None
    factor = scale / np.sqrt(var + _number(node, "epsilon", 1e-5))
    repeat = small.vector.size // small.dims[0]
    vector = small.vector.scale(np.repeat(factor, repeat)).shift(np.repeat(bias - mean * factor, repeat))
    return [Small(vector, small.dims)]


def _reduce(node: ir.Node, small: Small, found: Concrete) -> list[Small] | None:
    axes = axes_of(node, found)
    rank = 1 + len(small.dims)
    if axes is None or any(a % rank == 0 for a in axes):
        return None
    places = tuple(sorted(a % rank - 1 for a in axes))
    numbers = np.arange(small.vector.size).reshape(small.dims)
    kept = [axis for axis in range(len(small.dims)) if axis not in places]
    rows = numbers.transpose(*kept, *places).reshape(prod(small.dims[a] for a in kept), -1)
    count = rows.shape[1]
    weight = 1.0 / count if node.op_type == "ReduceMean" else 1.0
    where = (np.repeat(np.arange(len(rows)), count), rows.ravel())
    matrix = sparse.csr_matrix((np.full(rows.size, weight), where), shape=(len(rows), small.vector.size))
    return [Small(small.vector.apply(matrix), found.shapes[node.outputs[0]][1:])]


def _activate(node: ir.Node, small: Small, found: Concrete) -> list[Small] | None:
    op = node.op_type
    if op in _PLAIN:
        basis = Activated(op, small.vector)
    elif op in ("Swish", "Elu", "Celu", "ThresholdedRelu"):
        basis = Activated(op, small.vector, (_number(node, "alpha", 1.0),))
    elif op == "Selu":
        numbers = _number(node, "alpha", 1.6732632423543772), _number(node, "gamma", 1.0507009873554805)
        basis = Activated(op, small.vector, numbers)
    elif op == "Reciprocal":
        sigmoid = logistic(small.vector, np.ones(small.vector.size))
        return None if sigmoid is None else [Small(sigmoid, small.dims, batch=small.batch)]
    elif op == "Gelu":
        approximate = node.attributes.get_string("approximate", "none")
        basis = Activated("GeluTanh" if approximate == "tanh" else "Gelu", small.vector)
    elif op == "Pow":
        exponent = found.constant(node.inputs[1])
        if exponent is None or exponent.size != 1:
            return None
        basis = Activated(op, small.vector, (float(exponent.item()),))
    elif op == "Softmax":
        group_of = _softmax_groups(node, small, found)
        if group_of is None:
            return None
        basis = Activated("Softmax", small.vector, group_of=group_of)
    else:
        return None
    return [Small(identity(basis), small.dims, batch=small.batch)]


def _softmax_groups(node: ir.Node, small: Small, found: Concrete) -> npt.NDArray[np.int64] | None:
    version = node.version or (node.graph.opset_imports.get("") if node.graph is not None else None) or 13
    rank = 1 + len(small.dims)
    axis = dims_axis(int(_number(node, "axis", -1 if version >= 13 else 1)), rank, small.batch)
    if axis is None or (version < 13 and small.batch):
        return None
    dims = list(small.dims)
    # Before opset 13 a softmax runs over everything from its axis on.
    folded = dims[axis:] if version < 13 else [dims[axis]]
    before, size = prod(dims[:axis]), prod(folded)
    after = prod(dims) // (before * size)
    numbers = np.arange(before * after).reshape(before, 1, after)
    return np.broadcast_to(numbers, (before, size, after)).ravel().astype(np.int64)


def _number(node: ir.Node, name: str, default: float) -> float:
    attr = node.attributes.get(name)
    return default if attr is None else float(attr.value)
