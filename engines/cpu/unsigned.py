"""The unsigned twin: the s8 graph as x86 runs it fast, the same numbers in unsigned integers.

onnxruntime on x86 computes a convolution in integers only if its activations quantise right behind it (a Relu
between keeps the convolution in float), and its fast kernels take unsigned activations. So, for each activation
pair:

- a tensor that is never negative (``graph_facts.Signs`` proves it) becomes u8 with zero point 0. The signed range
  ends at 127 and the unsigned one at 255, so an integer ``Clip(max=127)`` follows the QuantizeLinear. A Relu before
  the pair is what the zero point does, and disappears::

      Conv ► Relu ► Q(s, s8 0) ► DQ(s, s8 0)    ⇒    Conv ► Q(s, u8 0) ► Clip(., 127) ► DQ(s, u8 0)

- any other becomes u8 with zero point 128: the same numbers plus 128. The convolutions that read it get their
  weights as u8 around 128 too: without VNNI, x86 adds pairs of u8 x s8 products in 16 bits, which overflows from
  129 x 127 on; products of u8 x u8 are added in 32. (Activations of the first kind end at 127 and cannot overflow.)

Every number stays what it was in the s8 graph; only the runtime's own rounding (integer convolutions requantise in
one step) can differ, by one step where a value lies on the boundary between two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import QMAX, UNSIGNED_ZERO_POINT
from radixrt.calibration.int8 import to_unsigned as around_128
from radixrt.export.graph.constants import constant
from radixrt.export.graph.facts import COMMUTING, Signs
from radixrt.export.graph.origin import copy_origin


def to_unsigned(model: ir.Model) -> ir.Model:
    """The unsigned twin of an s8 Q/DQ graph; ``model`` is not changed. A graph without pairs comes back as a copy."""
    twin = model.clone()
    graph = twin.graph
    signs = Signs()
    pairs = [n for n in graph if n.op_type == "QuantizeLinear" and _is_signed(n)]
    # Decided for all before anything moves: a Relu that disappears is what proves its tensor's sign.
    positive = {id(n) for n in pairs if n.inputs[0] is not None and signs.nonnegative(n.inputs[0])}
    shifted: set[int] = set()
    maker = _Maker(graph)
    for node in pairs:
        if id(node) in positive:
            _to_positive(node, maker)
        else:
            shifted |= _to_shifted(node, maker)
    for node in list(graph):
        if node.op_type in ("Conv", "Gemm", "MatMul") and id(node.inputs[0]) in shifted:
            _shift_weights(node, maker)
    for name in [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del graph.initializers[name]
    return twin


class _Maker:
    """Makes constants and values whose names are new to a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._taken = {v.name for v in graph.inputs} | set(graph.initializers)
        self._taken |= {v.name for node in graph for v in node.outputs}
        self._scalars: dict[int, ir.Value] = {}

    def name(self, base: str) -> str:
        unique, count = base, 1
        while unique in self._taken:
            unique, count = f"{base}_{count}", count + 1
        self._taken.add(unique)
        return unique

    def constant(self, base: str, array: NDArray[Any]) -> ir.Value:
        name = self.name(base)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def scalar(self, number: int) -> ir.Value:
        """A u8 scalar, made once."""
        if number not in self._scalars:
            self._scalars[number] = self.constant(f"u8_{number}", np.asarray(number, np.uint8))
        return self._scalars[number]


def _is_signed(node: ir.Node) -> bool:
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return zero is not None and zero.dtype == np.int8 and zero.ndim == 0


def _retype(node: ir.Node, zero: ir.Value) -> list[ir.Value]:
    """Gives a QuantizeLinear and the DequantizeLinear behind it another zero point; returns what these restore."""
    quantized = node.outputs[0]
    node.replace_input_with(2, zero)
    quantized.type = ir.TensorType(ir.DataType.UINT8)  # a clone shares type objects: replace, never mutate
    restored = []
    for reader in quantized.consumers():
        reader.replace_input_with(2, zero)
        restored.append(reader.outputs[0])
    return restored


def _to_shifted(node: ir.Node, maker: _Maker) -> set[int]:
    return {id(value) for value in _retype(node, maker.scalar(UNSIGNED_ZERO_POINT))}


def _to_positive(node: ir.Node, maker: _Maker) -> None:
    scale = constant(node.inputs[1])
    source = node.inputs[0]
    assert scale is not None and source is not None
    limit = QMAX
    bound = _upper_bound(source)
    if bound is not None:
        limit = int(min(QMAX, np.rint(np.float32(bound) / np.float32(scale))))
    zero = maker.scalar(0)
    quantized = node.outputs[0]
    readers = list(quantized.uses())
    _retype(node, zero)
    activation = source.producer()
    if bound is not None and activation is not None and len(source.uses()) == 1 and not source.is_graph_output():
        node.replace_input_with(0, activation.inputs[0])
        maker.graph.remove(activation, safe=True)
    if _already_clipped(node, scale):
        return
    clipped = ir.Value(
        name=maker.name(f"{quantized.name}_clip"), shape=quantized.shape, type=ir.TensorType(ir.DataType.UINT8)
    )
    # Only the upper end: the zero point is the lower.
    clip = ir.Node("", "Clip", [quantized, None, maker.scalar(limit)], outputs=[clipped], name=clipped.name)
    copy_origin(node, clip)
    maker.graph.insert_after(node, clip)
    for reader, index in readers:
        reader.replace_input_with(index, clipped)


def _upper_bound(value: ir.Value) -> float | None:
    """The largest number that a Relu (inf) or a Clip from zero lets through; None behind anything else."""
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Relu":
        return float(np.inf)
    if node.op_type == "Clip" and len(node.inputs) > 1:
        low = constant(node.inputs[1])
        high = constant(node.inputs[2]) if len(node.inputs) > 2 else np.asarray(np.inf)
        if low is not None and high is not None and float(low) == 0:
            return float(high)
    return None


def _already_clipped(node: ir.Node, scale: NDArray[Any]) -> bool:
    """Whether the numbers only moved since a pair with the same scale quantised them."""
    value = node.inputs[0]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type == "DequantizeLinear":
            before = constant(producer.inputs[1])
            return before is not None and before.shape == scale.shape and bool((before == scale).all())
        if producer.op_type not in COMMUTING:
            return False
        value = producer.inputs[0]
    return False


def _shift_weights(node: ir.Node, maker: _Maker) -> None:
    restore = node.inputs[1].producer() if node.inputs[1] is not None else None
    if restore is None or restore.op_type != "DequantizeLinear":
        return
    stored, zeros = constant(restore.inputs[0]), constant(restore.inputs[2])
    if stored is None or zeros is None or stored.dtype != np.int8 or len(restore.outputs[0].uses()) != 1:
        return
    base = restore.outputs[0].name or "weight"
    restore.replace_input_with(0, maker.constant(f"{base}_u8", around_128(stored)))
    restore.replace_input_with(
        2, maker.constant(f"{base}_zero_u8", np.full(zeros.shape, UNSIGNED_ZERO_POINT, np.uint8))
    )
