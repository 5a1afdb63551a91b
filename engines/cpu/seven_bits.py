"""INT8 weights with one bit less, for OpenVINO on x86 processors without VNNI.

Those processors add pairs of u8 x s8 products in 16 bits, which saturate at 32767 without a word: 255 * 127 * 2 does
not fit. OpenVINO turns symmetric activations into u8 around 128, so this happens in ordinary layers, and results are
wrong by several steps. With weights of at most 64 in magnitude nothing can saturate (255 * 64 * 2 = 32640); rounding
them costs less than the saturation did. NNCF does the same under the name "overflow fix".

Before: ``DequantizeLinear(W8, s)`` in front of a convolution or matrix product. After: ``DequantizeLinear(round(W8 /
    2), 2 s)``.

ONNX Runtime needs none of this: its graph has unsigned weights there (see ``engines/cpu/unsigned.py``).
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import forget
from radixrt.export.graph.writer import GraphWriter

_LIMIT = 64
_MULTIPLY = ("Conv", "Gemm", "MatMul")


def saturates() -> bool:
    """Says whether this processor adds INT8 products in 16 bits: x86-64 without VNNI. False where it cannot be told."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags[1].split())


def to_seven_bits(model: ir.Model) -> ir.Model:
    """Returns a copy of an INT8 deploy graph whose weights have seven bits."""
    model = model.clone()
    writer = GraphWriter(model.graph)
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and any(n.op_type in _MULTIPLY for n in node.outputs[0].consumers()):
            _halve(node, writer)
    writer.append()
    return model


def _halve(node: ir.Node, writer: GraphWriter) -> None:
    weight, scale = node.inputs[0], node.inputs[1]
    if weight is None or scale is None or weight.const_value is None or scale.const_value is None:
        return
    # A weight that another node reads too would be halved twice.
    if weight.const_value.dtype is not ir.DataType.INT8 or len(weight.uses()) != 1:
        return
    values = np.round(weight.const_value.numpy().astype(np.float32) / 2).clip(-_LIMIT, _LIMIT - 1).astype(np.int8)
    weight.const_value = ir.tensor(values, name=weight.name)
    steps = (scale.const_value.numpy() * 2).astype(scale.const_value.numpy().dtype)
    node.replace_input_with(1, writer.constant(steps, f"{scale.name}_of_{weight.name}_doubled"))
    forget(writer.graph, scale)
