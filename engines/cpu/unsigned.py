"""The unsigned form of a graph: the s8 graph as x86 runs it fast, the same numbers in unsigned integers.

onnxruntime on x86 computes a convolution in integers only if its activations quantise right behind it (a Relu
between keeps the convolution in float), and its fast kernels take unsigned activations. So, for each Q/DQ pair of
an activation:

- a tensor that is never negative (``radixrt.export.graph.facts.Signs`` proves it) becomes u8 with zero point 0. The
  signed range ends at 127 and the unsigned one at 255, so an integer ``Clip(max=127)`` follows the QuantizeLinear. A
  Relu before the Q/DQ pair is what the zero point does, and disappears::

      Conv ► Relu ► Q(s, s8 0) ► DQ(s, s8 0)    ⇒    Conv ► Q(s, u8 0) ► Clip(., 127) ► DQ(s, u8 0)

- any other becomes u8 with zero point 128: the same numbers plus 128.

Weights stay s8 where their neighbours fit 16 bits (:mod:`radixrt.calibration.saturation`), as those of a CPU's own
deploy graph do. Without VNNI, x86 adds two u8 x s8 products in 16 bits, which overflows from 129 x 127 on; products of
u8 x u8 are added in 32, but two to three times as slowly where VNNI is. So weights that do not fit, those of a graph
for another device, become u8 around 128 beside activations of the second kind; those of the first end at 127 and
cannot overflow.

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
from radixrt.calibration.saturation import fits
from radixrt.export.graph.constants import constant
from radixrt.export.graph.facts import Signs, commutes
from radixrt.export.graph.writer import GraphWriter


def to_unsigned(model: ir.Model) -> ir.Model:
    """The unsigned form of an s8 Q/DQ graph; ``model`` is not changed. A graph without Q/DQ comes back as a copy."""
    unsigned = model.clone()
    graph = unsigned.graph
    signs = Signs()
    quantisers = [n for n in graph if n.op_type == "QuantizeLinear" and _is_signed(n)]
    # Decided for all before anything moves: a Relu that disappears is what proves its tensor's sign.
    positive = {id(n) for n in quantisers if n.inputs[0] is not None and signs.nonnegative(n.inputs[0])}
    shifted: set[int] = set()
    writer = GraphWriter(graph)
    for node in quantisers:
        if id(node) in positive:
            _to_positive(node, writer)
        else:
            shifted |= _to_shifted(node, writer)
    for node in list(graph):
        if node.op_type in ("Conv", "Gemm", "MatMul") and id(node.inputs[0]) in shifted:
            _shift_weights(node, writer)
    writer.append()
    for name in [n for n, v in graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
        del graph.initializers[name]
    return unsigned


def _scalar(writer: GraphWriter, number: int) -> ir.Value:
    return writer.constant(np.asarray(number, np.uint8), f"u8_{number}")


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


def _to_shifted(node: ir.Node, writer: GraphWriter) -> set[int]:
    return {id(value) for value in _retype(node, _scalar(writer, UNSIGNED_ZERO_POINT))}


def _to_positive(node: ir.Node, writer: GraphWriter) -> None:
    scale = constant(node.inputs[1])
    source = node.inputs[0]
    assert scale is not None and source is not None
    limit = QMAX
    bound = _upper_bound(source)
    if bound is not None:
        limit = int(min(QMAX, np.rint(np.float32(bound) / np.float32(scale))))
    zero = _scalar(writer, 0)
    quantized = node.outputs[0]
    _retype(node, zero)
    activation = source.producer()
    if bound is not None and activation is not None and len(source.uses()) == 1 and not source.is_graph_output():
        node.replace_input_with(0, activation.inputs[0])
        writer.graph.remove(activation, safe=True)
    if _already_clipped(node, scale):
        return
    # Only the upper end: the zero point is the lower.
    clipped = writer.op(
        "Clip",
        [quantized, None, _scalar(writer, limit)],
        f"{quantized.name}_clip",
        dtype=ir.DataType.UINT8,
        shape=quantized.shape,
        origin=node,
    )
    writer.put_behind(quantized, clipped)


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
    """Whether the numbers only moved since a Q/DQ pair with the same scale quantised them."""
    value = node.inputs[0]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type == "DequantizeLinear":
            before = constant(producer.inputs[1])
            return before is not None and before.shape == scale.shape and bool((before == scale).all())
        if not commutes(producer):
            return False
        value = producer.inputs[0]
    return False


def _shift_weights(node: ir.Node, writer: GraphWriter) -> None:
    restore = node.inputs[1].producer() if node.inputs[1] is not None else None
    if restore is None or restore.op_type != "DequantizeLinear":
        return
    stored, zeros = constant(restore.inputs[0]), constant(restore.inputs[2])
    if stored is None or zeros is None or stored.dtype != np.int8 or len(restore.outputs[0].uses()) != 1:
        return
    if fits(stored, restore.attributes.get_int("axis", 1)):
        return
    base = restore.outputs[0].name or "weight"
    restore.replace_input_with(0, writer.constant(around_128(stored), f"{base}_u8"))
    zero = np.full(zeros.shape, UNSIGNED_ZERO_POINT, np.uint8)
    restore.replace_input_with(2, writer.constant(zero, f"{base}_zero_u8"))
