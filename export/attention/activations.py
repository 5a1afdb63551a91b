"""Activations that a graph spells in several operators: how they are read, and how they are written.

Read is a product of a tensor with a function of itself, and the logistic function by its formula.

::

    x * sigmoid(c x)                                     Swish(c): SiLU, and quick GELU where c = 1.702
    x * hard_sigmoid(x)                                  HardSwish
    x * tanh(softplus(x))                                Mish
    x * (1 + erf(x / sqrt 2))                            twice Gelu
    x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))      twice GeluTanh
    x * x, x * x^2                                       powers, of which GeluTanh is made
    1 / (1 + exp(-x))                                    Sigmoid

Where the halves of a GELU stand, and what multiplies what first, does not matter: factors are carried along.

Written is what the graph's opset has: one operator, or in an older one what it stands for (HardSwish before 14, Mish
before 18, Gelu before 20). Swish is two operators everywhere, as exporters write it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir
from scipy import sparse

from radixrt.export.attention.affine import Activated, Affine, Floats, identity, same, sole_basis
from radixrt.export.attention.block import Activation

_CUBIC = 0.044715
_SLOPE = np.sqrt(2 / np.pi)
# The attributes of those that are one operator.
_NAMES: dict[str, tuple[str, ...]] = {"HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma")}
_NAMES |= dict.fromkeys(("LeakyRelu", "Elu", "Celu", "ThresholdedRelu"), ("alpha",))


def product(left: Affine, right: Affine) -> Affine | None:
    """``left * right``, element by element, where one is a function of the other."""
    return _power(left, right) or _power(right, left) or _gated(left, right) or _gated(right, left)


def logistic(below: Affine, above: Floats) -> Affine | None:
    """``above / below`` where that is ``above / (b + c exp(-x))`` with positive b and c: a multiple of a sigmoid."""
    read = _scaled_and_shifted(below)
    if read is None or read[0].kind != "Exp" or read[1] <= 0 or read[2] <= 0:
        return None
    basis, factor, offset = read
    # b + c exp(u) = b (1 + exp(u + log(c / b)))
    argument = _scale(basis.inner, -1.0)
    if factor != offset:
        argument = argument.shift(np.full(argument.size, np.log(offset / factor)))
    vector = identity(Activated("Sigmoid", argument))
    factors = above / offset
    return vector if (factors == 1.0).all() else vector.scale(factors)


def _power(x: Affine, other: Affine) -> Affine | None:
    ratio = _ratio(other, x)
    if ratio is not None:
        return _scale(identity(Activated("Pow", x, (2.0,))), ratio)
    read = _scaled_and_shifted(other)
    if read is None or read[0].kind != "Pow" or read[2]:
        return None
    basis, factor, _ = read
    return _times(x, basis.inner, Activated("Pow", basis.inner, (basis.params[0] + 1,)), factor)


def _gated(x: Affine, gate: Affine) -> Affine | None:
    read = _scaled_and_shifted(gate)
    if read is None:
        return None
    basis, factor, offset = read
    inner = basis.inner
    if offset == factor:
        found = _half_gelu(x, basis)
    elif offset:
        found = None
    elif basis.kind == "Sigmoid":
        slope = _ratio(inner, x)
        found = None if slope is None else identity(Activated("Swish", x, (slope,)))
    elif basis.kind == "HardSigmoid":
        slope, start = basis.params
        found = _hard_swish(x, _scale(inner, 6 * slope), 6 * start - 3)
    elif basis.kind == "Tanh" and isinstance(soft := sole_basis(inner), Activated) and soft.kind == "Softplus":
        found = _times(x, soft.inner, Activated("Mish", soft.inner))
    else:
        found = None
    return None if found is None else _scale(found, factor)


def _hard_swish(x: Affine, inner: Affine, offset: float, factor: float = 1.0) -> Affine | None:
    argument = inner.shift(np.full(inner.size, offset))
    return _times(x, argument, Activated("HardSwish", argument), factor)


def _half_gelu(x: Affine, basis: Activated) -> Affine | None:
    """``x * (1 + basis)`` as a multiple of a GELU, whose argument the constants of the graph settle."""
    if basis.kind == "Erf":
        argument = _scale(basis.inner, np.sqrt(2.0))
        return _times(x, argument, Activated("Gelu", argument), 2.0)
    if basis.kind != "Tanh":
        return None
    cubes = [
        (b, m) for b, m in basis.inner.terms if isinstance(b, Activated) and b.kind == "Pow" and b.params == (3.0,)
    ]
    if len(cubes) != 1:
        return None
    cube, matrix = cubes[0]
    assert isinstance(cube, Activated)
    cubic = _ratio(Affine(((cube, matrix),), np.zeros(x.size)), identity(cube))
    rest = Affine(tuple((b, m) for b, m in basis.inner.terms if b is not cube), basis.inner.bias)
    linear = _ratio(rest, cube.inner)
    if cubic is None or linear is None:
        return None
    slope = linear / _SLOPE
    if not np.isclose(cubic, _SLOPE * _CUBIC * slope**3, rtol=1e-5, atol=0.0):
        return None
    argument = _scale(cube.inner, slope)
    return _times(x, argument, Activated("GeluTanh", argument), 2.0)


def _times(x: Affine, argument: Affine, activation: Activated, factor: float = 1.0) -> Affine | None:
    """``factor * activation``, times what ``x`` is of the activation's ``argument``."""
    ratio = _ratio(x, argument)
    return None if ratio is None else _scale(identity(activation), factor * ratio)


def _scale(vector: Affine, factor: float) -> Affine:
    return vector if factor == 1.0 else vector.scale(np.full(vector.size, factor))


def _scaled_and_shifted(vector: Affine) -> tuple[Activated, float, float] | None:
    """The activation that ``vector`` is, up to a factor and an offset that are the same for all elements."""
    if len(vector.terms) != 1 or not isinstance(basis := vector.terms[0][0], Activated):
        return None
    factor = _ratio(Affine(vector.terms, np.zeros(vector.size)), identity(basis))
    if factor is None or (vector.bias != vector.bias[0]).any():
        return None
    return basis, factor, float(vector.bias[0])


def _ratio(left: Affine, right: Affine) -> float | None:
    """The number ``c`` with ``left = c * right`` to within float32's rounding, or None."""
    if left.size != right.size or {b for b, _ in left.terms} != {b for b, _ in right.terms}:
        return None
    if same(left, right):
        return 1.0
    ours, theirs = _together(left, left), _together(right, left).tocoo()
    if not theirs.nnz:
        return None
    at = int(np.argmax(np.abs(theirs.data)))
    ratio = float(ours[theirs.row[at], theirs.col[at]] / theirs.data[at])
    difference = abs(ours - ratio * theirs)
    return ratio if ratio and difference.max() <= 1e-6 * abs(ratio * theirs.data[at]) else None


def _together(vector: Affine, order: Affine) -> sparse.csr_matrix:
    """The bias and the matrices of ``vector`` side by side, in the order of the other's bases."""
    matrices = dict(vector.terms)
    bias = sparse.csr_matrix(vector.bias[:, None])
    return sparse.csr_matrix(sparse.hstack([bias, *(matrices[basis] for basis, _ in order.terms)]))


class Writer(Protocol):
    """What makes nodes and constants; ``role`` is what their names end with."""

    def op(
        self, op_type: str, inputs: Sequence[ir.Value], role: str, **attributes: int | list[int] | float | str
    ) -> ir.Value: ...

    def constant(self, array: Floats, role: str) -> ir.Value: ...


def write_activation(value: ir.Value, activation: Activation, role: str, to: Writer, opset: int) -> ir.Value:
    """Returns ``activation`` of ``value``, computed by new nodes of ``to``."""
    kind, params = activation.kind, activation.params

    def number(what: float, name: str) -> ir.Value:
        return to.constant(np.asarray(what), f"{role}.{name}")

    if kind == "Swish":
        scaled = value if params[0] == 1.0 else to.op("Mul", [value, number(params[0], "alpha")], f"{role}.scaled")
        return to.op("Mul", [value, to.op("Sigmoid", [scaled], f"{role}.sigmoid")], role)
    if kind == "HardSwish" and opset < 14:
        return to.op("Mul", [value, to.op("HardSigmoid", [value], f"{role}.gate", alpha=1 / 6, beta=0.5)], role)
    if kind == "Mish" and opset < 18:
        soft = to.op("Softplus", [value], f"{role}.soft")
        return to.op("Mul", [value, to.op("Tanh", [soft], f"{role}.gate")], role)
    if kind in ("Gelu", "GeluTanh") and opset >= 20:
        return to.op("Gelu", [value], role, approximate="tanh" if kind == "GeluTanh" else "none")
    if kind == "Gelu":
        argument = to.op("Mul", [value, number(np.sqrt(0.5), "slope")], f"{role}.argument")
        return _half(value, to.op("Erf", [argument], f"{role}.curve"), role, to)
    if kind == "GeluTanh":
        cube = to.op("Pow", [value, number(3.0, "exponent")], f"{role}.cube")
        cubic = to.op("Mul", [cube, number(_CUBIC, "cubic_factor")], f"{role}.cubic")
        inner = to.op("Add", [value, cubic], f"{role}.inner")
        argument = to.op("Mul", [inner, number(_SLOPE, "slope")], f"{role}.argument")
        return _half(value, to.op("Tanh", [argument], f"{role}.curve"), role, to)
    if kind == "Pow":
        return to.op("Pow", [value, number(params[0], "exponent")], role)
    if kind == "PRelu":
        return to.op("PRelu", [value, to.constant(np.asarray(params).reshape(-1, 1, 1), f"{role}.slope")], role)
    if kind == "Clip":
        ends = [number(p, end) for end, p in zip(("min", "max"), params, strict=True)]
        return to.op("Clip", [value, *ends], role)
    return to.op(kind, [value], role, **dict(zip(_NAMES.get(kind, ()), params, strict=True)))


def _half(value: ir.Value, curve: ir.Value, role: str, to: Writer) -> ir.Value:
    """``value * 0.5 * (1 + curve)``."""
    raised = to.op("Add", [curve, to.constant(np.asarray(1.0), f"{role}.one")], f"{role}.raised")
    halved = to.op("Mul", [raised, to.constant(np.asarray(0.5), f"{role}.half")], f"{role}.halved")
    return to.op("Mul", [value, halved], role)
