"""Writes an activation in the operators that an opset has.

What is one operator in a newer opset is spelled out in an older one: HardSwish before 14, Mish before 18, Gelu before
20. Swish is two operators everywhere, as exporters write it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from radixrt.export.attention.affine import Floats
from radixrt.export.attention.block import Activation

_NAMES = {"HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",), "Elu": ("alpha",)}


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
        argument = to.op("Mul", [value, number(math.sqrt(0.5), "slope")], f"{role}.argument")
        return _half(value, to.op("Erf", [argument], f"{role}.curve"), role, to)
    if kind == "GeluTanh":
        cube = to.op("Pow", [value, number(3.0, "exponent")], f"{role}.cube")
        cubic = to.op("Mul", [cube, number(0.044715, "cubic_factor")], f"{role}.cubic")
        inner = to.op("Add", [value, cubic], f"{role}.inner")
        argument = to.op("Mul", [inner, number(math.sqrt(2 / math.pi), "slope")], f"{role}.argument")
        return _half(value, to.op("Tanh", [argument], f"{role}.curve"), role, to)
    if kind == "Pow":
        return to.op("Pow", [value, number(params[0], "exponent")], role)
    if kind == "Clip":
        ends = [number(p, end) for end, p in zip(("min", "max"), params, strict=True)]
        return to.op("Clip", [value, *ends], role)
    return to.op(kind, [value], role, **dict(zip(_NAMES.get(kind, ()), params, strict=True)))


def _half(value: ir.Value, curve: ir.Value, role: str, to: Writer) -> ir.Value:
    """``value * 0.5 * (1 + curve)``."""
    raised = to.op("Add", [curve, to.constant(np.asarray(1.0), f"{role}.one")], f"{role}.raised")
    halved = to.op("Mul", [raised, to.constant(np.asarray(0.5), f"{role}.half")], f"{role}.halved")
    return to.op("Mul", [value, halved], role)
