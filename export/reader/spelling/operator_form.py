"""The operator form of a quantised file becomes the QDQ form, whose pairs can be kept or taken off.

Before::

    x int8 ──► QLinearConv(x, sx, zx, W int8, sw, zw, sy, zy, b int32) ──► y int8

After::

    x int8 ──► DequantizeLinear(sx, zx) ──► Conv(DequantizeLinear(W int8, sw, zw), b float32) ──► QuantizeLinear(sy, zy)

It covers what ONNX Runtime's quantiser writes: ONNX's own QLinearConv and QLinearMatMul, and operators of its domain
``com.microsoft``. Each computes what the float operator between a pair on either side does, but for one rounding.

Left as they stand, to be refused: integers whose scales are computed (dynamic quantisation), other layouts, and
operators that the table lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from radixrt.errors import InputError
from radixrt.export.reader.opset import opset_of

CONTRIB = "com.microsoft"
_PER_CHANNEL_OPSET = 13  # before, a DequantizeLinear has one scale
_ATTRIBUTES_OF_THE_FORM = ("channels_last", "opset")


@dataclass(frozen=True)
class _Form:
    """How a quantised operator is spelled.

    Attributes:
        op_type: the float operator that it stands for.
        data: where its tensors stand, each with scale and zero point behind it; None: from the third input to the end.
        result: where scale and zero point of what it makes stand.
        bias: where an int32 bias stands.
        axis: of the weight's output channels.
    """

    op_type: str
    data: tuple[int, ...] | None
    result: int
    bias: int | None = None
    axis: int = 0


_ONE = ((0,), 3)
_TWO = ((0, 3), 6)
_FORMS = {
    "QLinearConv": _Form("Conv", *_TWO, bias=8),
    "QLinearMatMul": _Form("MatMul", *_TWO, axis=-1),
    "QGemm": _Form("Gemm", (0, 3), 7, bias=6, axis=-1),
    "QLinearAdd": _Form("Add", *_TWO),
    "QLinearMul": _Form("Mul", *_TWO),
    "QLinearSigmoid": _Form("Sigmoid", *_ONE),
    "QLinearLeakyRelu": _Form("LeakyRelu", *_ONE),
    "QLinearSoftmax": _Form("Softmax", *_ONE),
    "QLinearGlobalAveragePool": _Form("GlobalAveragePool", *_ONE),
    "QLinearAveragePool": _Form("AveragePool", *_ONE),
    "QLinearReduceMean": _Form("ReduceMean", *_ONE),
    "QLinearConcat": _Form("Concat", None, 0),
}
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def as_pairs(proto: onnx.ModelProto, path: Path) -> int:
    """Puts pairs and float operators in the place of quantised operators, in place.

    Args:
        proto: with its tensors loaded.
        path: the file, to speak of.

    Returns:
        how many there were.

    Raises:
        InputError: one of them does not have the inputs that its operator has.
    """
    graph = proto.graph
    opset = opset_of(proto)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        form = _FORMS.get(node.op_type)
        if form is None or node.domain not in ("", CONTRIB) or not _plain(node):
            nodes.append(node)
            continue
        try:
            nodes += _Writer(graph, node, form, constants, taken, opset).nodes(count)
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{path}: node {node.name!r} is no {node.op_type} as ONNX describes it: quantise the network again"
            ) from error
        count += 1
    if count:
        del graph.node[:]
        graph.node.extend(nodes)
    _forget_contrib(proto)
    return count


def contrib_pair(node: onnx.NodeProto) -> bool:
    """Whether a node is half of a pair of the runtime's own domain, which has all types at every opset."""
    return node.domain == CONTRIB and node.op_type in _PAIR


def as_standard_pairs(proto: onnx.ModelProto) -> None:
    """Moves the pairs of the runtime's own domain to the standard's, whose opset must have their types, in place."""
    for node in proto.graph.node:
        if contrib_pair(node):
            node.domain = ""
    _forget_contrib(proto)


def _forget_contrib(proto: onnx.ModelProto) -> None:
    """Drops the import of the runtime's own domain where no node is of it."""
    if not any(node.domain == CONTRIB for node in proto.graph.node):
        kept = [entry for entry in proto.opset_import if entry.domain != CONTRIB]
        del proto.opset_import[:]
        proto.opset_import.extend(kept)


def _plain(node: onnx.NodeProto) -> bool:
    return not any(a.name == "channels_last" and a.i for a in node.attribute)


class _Writer:
    """Writes what stands in an operator's place. ``taken`` are the names of values, to which its own are added."""

    def __init__(
        self,
        graph: onnx.GraphProto,
        node: onnx.NodeProto,
        form: _Form,
        constants: dict[str, Any],
        taken: set[str],
        opset: int,
    ) -> None:
        self._graph, self._node, self._form, self._constants = graph, node, form, constants
        self._taken, self._per_channel = taken, opset >= _PER_CHANNEL_OPSET

    def nodes(self, number: int) -> Iterator[onnx.NodeProto]:
        """The nodes in the operator's place; ``number`` keeps their names apart."""
        node, form = self._node, self._form
        given = list(node.input)
        if not node.domain and len(given) < form.result + 2:
            raise IndexError
        # As the float network called it, from which the runtime's quantiser made this name.
        own = node.output[0].removesuffix("_quantized")
        own = own if own not in self._taken else f"{own}.{number}.float32"
        self._taken.add(own)
        at = form.data if form.data is not None else tuple(range(2, len(given), 3))
        floats = []
        for place in at:
            value, scale, zero = given[place], given[place + 1], given[place + 2] if place + 2 < len(given) else ""
            folded = self._folded(value, scale, zero, f"{own}.{place}")
            if folded is None:
                folded = f"{value}.{number}.{place}.float32"
                names = [name for name in (value, scale, zero) if name]
                pair = helper.make_node("DequantizeLinear", names, [folded], f"{folded}.dq")
                if self._many(scale):
                    pair.attribute.append(helper.make_attribute("axis", self._axis(value)))
                yield pair
            floats.append(folded)
        if form.bias is not None and len(given) > form.bias and given[form.bias]:
            floats.append(self._bias(given, f"{own}.bias"))
        scale, zero = (given[i] if len(given) > i else "" for i in (form.result, form.result + 1))
        result = own if scale else node.output[0]
        inner = helper.make_node(form.op_type, floats, [result], node.name.removesuffix("_quant") or own)
        inner.attribute.extend(a for a in node.attribute if a.name not in _ATTRIBUTES_OF_THE_FORM)
        yield inner
        if scale:
            names = [name for name in (result, scale, zero) if name]
            yield helper.make_node("QuantizeLinear", names, list(node.output), f"{own}.q")

    def _axis(self, weight: str) -> int:
        rank = len(self._constants[weight].dims) if weight in self._constants else 2
        if self._form.op_type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in self._node.attribute)
            return 0 if transposed else 1
        return self._form.axis % rank

    def _many(self, scale: str) -> bool:
        return scale in self._constants and int(np.prod(self._constants[scale].dims)) > 1

    def _array(self, name: str) -> Any:
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def _folded(self, value: str, scale: str, zero: str, name: str) -> str | None:
        """A weight of several scales as float32, where the opset has no DequantizeLinear for it."""
        weight, steps, offset = self._array(value), self._array(scale), self._array(zero)
        if self._per_channel or weight is None or steps is None or steps.size == 1:
            return None
        along = [1] * weight.ndim
        along[self._axis(value)] = -1
        centred = weight.astype(np.float32) - (0 if offset is None else offset.astype(np.float32).reshape(along))
        return self._constant(centred * steps.reshape(along), name)

    def _bias(self, given: list[str], name: str) -> str:
        """The bias as float32: its integers count steps of the product of both scales."""
        bias, data, weight = (self._array(given[place]) for place in (self._form.bias or 0, 1, 4))
        if bias is None or data is None or weight is None:
            return given[self._form.bias or 0]  # computed, which nothing quantises so: the checker says what is wrong
        alpha = next((a.f for a in self._node.attribute if a.name == "alpha"), 1.0)
        return self._constant(bias.astype(np.float64) * data.reshape(-1) * weight.reshape(-1) * alpha, name)

    def _constant(self, array: Any, name: str) -> str:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name
