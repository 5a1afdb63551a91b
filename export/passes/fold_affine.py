"""Folds a constant for each channel into the layer before it: normalisation that an exporter wrote as arithmetic.

Before::

    y = Mul(Conv(x; W, b), s)         or Div by s; or Add, or Sub, of a constant t

After::

    y = Conv(x; W * s, b * s)         and b + t

``s`` and ``t`` are numbers, or one number for each output channel. Where both follow each other (Keras and tf2onnx
write BatchNormalization as a product and a sum) the first is folded first, so both go. The layer is a Conv,
ConvTranspose or Gemm with constant weights. Refused, with nothing changed, where the layer's result is read elsewhere
or is an output of the graph, where the constant differs from place to place, and where a folded number would not be
finite. Each fold is proved before it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import array_of, constant, is_constant
from radixrt.export.graph.shapes import Concrete
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import ProvedPass, Rewrite

Floats = NDArray[np.floating[Any]]

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm"})
# The algebra does not depend on the image's size.
_PROOF_IMAGES, _PROOF_MARGIN = 2, 2


class FoldAffine(ProvedPass):
    """Folds every such constant."""

    refusal = "constant behind a layer"

    def match(self, node: ir.Node) -> Rewrite | None:
        found = _match(node)
        if found is None:
            return None
        return Rewrite(
            name=node.name or "",
            nodes=(found.layer, node),
            write=partial(_write, found),
            sizes=_at_proof_size(found),
        )


@dataclass(frozen=True, eq=False)
class _Affine:
    """``scale * layer + shift``; both (channels,), float64. ``axes`` is how many axes the layer's weight has."""

    layer: ir.Node
    weight: Floats
    bias: Floats | None
    scale: Floats
    shift: Floats

    @property
    def folded(self) -> tuple[Floats, Floats]:
        """The weight and bias that compute the same, in float64."""
        rank, groups = self.weight.ndim, self.layer.attributes.get_int("group", 1)
        if self.layer.op_type == "ConvTranspose":
            # (inputs, outputs of one group, ...): each group's inputs meet the scales of its own outputs.
            inputs, outputs = self.weight.shape[:2]
            by_group = self.weight.astype(np.float64).reshape(groups, inputs // groups, outputs, -1)
            weight = (by_group * self.scale.reshape(groups, 1, outputs, 1)).reshape(self.weight.shape)
        else:
            rows = _by_rows(self.layer)
            along = (-1,) + (1,) * (rank - 1) if rows else (1, -1)
            weight = self.weight * self.scale.reshape(along)
        bias = 0.0 if self.bias is None else self.bias.astype(np.float64).reshape(-1)
        return weight, bias * self.scale + self.shift


def _match(node: ir.Node) -> _Affine | None:
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or node.domain:
        return None
    for place, value in enumerate(node.inputs):
        layer = None if value is None else value.producer()
        number = constant(node.inputs[1 - place])
        if layer is None or value is None or number is None or not _folds(layer):
            continue
        if len(value.uses()) != 1 or value.is_graph_output() or (place == 1 and node.op_type == "Div"):
            continue
        return _affine(node, layer, number, first=place == 0)
    return None


def _folds(layer: ir.Node) -> bool:
    if layer.op_type not in _LAYERS or layer.domain or not all(v is None or is_constant(v) for v in layer.inputs[1:]):
        return False
    ones = all(layer.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return ones and layer.inputs[0] is not None and not is_constant(layer.inputs[0])


def _affine(node: ir.Node, layer: ir.Node, number: Floats, *, first: bool) -> _Affine | None:
    weight = layer.inputs[1]
    assert weight is not None
    array = array_of(weight)
    bias = constant(layer.inputs[2]) if len(layer.inputs) > 2 else None
    channels = _channels(layer, array)
    row = _by_channel(number, channels, 2 if layer.op_type == "Gemm" else array.ndim)
    if row is None or (bias is not None and bias.size != channels):
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    with np.errstate(all="ignore"):
        scale, shift = {
            "Mul": (row, zeros),
            "Div": (ones / row, zeros),
            "Add": (ones, row),
            "Sub": (ones, -row) if first else (-ones, row),
        }[node.op_type]
        found = _Affine(layer, array, bias, scale, shift)
        finite = all(np.isfinite(part.astype(array.dtype)).all() for part in found.folded)
    return found if finite else None


def _channels(layer: ir.Node, weight: Floats) -> int:
    if layer.op_type == "ConvTranspose":
        return int(weight.shape[1]) * layer.attributes.get_int("group", 1)
    return int(weight.shape[0 if _by_rows(layer) else 1])


def _by_rows(layer: ir.Node) -> bool:
    """Whether the first axis of a Conv's or Gemm's weight counts output channels."""
    return layer.op_type == "Conv" or bool(layer.attributes.get_int("transB", 0))


def _by_channel(number: Floats, channels: int, rank: int) -> Floats | None:
    """A constant as one number for each channel, which stand on axis 1 of ``rank``; None where it is none."""
    shape = (1,) * (rank - number.ndim) + number.shape
    if number.dtype.kind != "f" or len(shape) != rank or any(d != 1 for i, d in enumerate(shape) if i != 1):
        return None
    return np.broadcast_to(number.astype(np.float64).reshape(-1), (channels,)) if shape[1] in (1, channels) else None


def _write(found: _Affine, writer: GraphWriter) -> ir.Value:
    layer = found.layer
    name = layer.name or layer.outputs[0].name
    weight, bias = found.folded
    inputs = [
        layer.inputs[0],
        writer.constant(weight.astype(found.weight.dtype), f"{name}.folded_weight"),
        writer.constant(bias.astype(found.weight.dtype), f"{name}.folded_bias"),
    ]
    return writer.op(
        layer.op_type,
        inputs,
        f"{name}.folded",
        layer.attributes,
        dtype=layer.outputs[0].dtype,
        instead_of=layer,
    )


def _at_proof_size(found: _Affine) -> Concrete:
    layer, weight = found.layer, found.weight
    data = layer.inputs[0]
    assert data is not None
    if layer.op_type == "Gemm":
        shape: tuple[int, ...] = (_PROOF_IMAGES, weight.shape[1 if _by_rows(layer) else 0])
        shape = shape[::-1] if layer.attributes.get_int("transA", 0) else shape
    else:
        groups = layer.attributes.get_int("group", 1)
        inputs = weight.shape[0] if layer.op_type == "ConvTranspose" else weight.shape[1] * groups
        dilations = layer.attributes.get_ints("dilations", (1,) * (weight.ndim - 2))
        spans = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
        shape = (_PROOF_IMAGES, inputs, *(span + _PROOF_MARGIN for span in spans))
    kind = layer.outputs[0].dtype or ir.DataType.from_numpy(weight.dtype)
    (reader,) = (use.node for use in layer.outputs[0].uses())
    read = {value: constant(value) for node in (layer, reader) for value in node.inputs if value is not None}
    concrete = Concrete({data: shape}, {value: array for value, array in read.items() if array is not None})
    concrete.types[reader.outputs[0]] = ir.serde.serialize_type(ir.TensorType(kind))
    return concrete
