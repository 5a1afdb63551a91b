"""For OpenVINO's INT8: what a maximum over channels comes to is compared with itself before it is quantised.

Before::

    y = ReduceMax(x, axes=[1])                                       (N, 1, H, W)

After::

    y = Max(m, m) of m = ReduceMax(x, axes=[1])

Where an INT8 convolution reads the maximum, or the minimum, OpenVINO (2026.4) quantises it in the kernel that finds it,
and that kernel finds something else: the spatial attention of CBAM came to 9 dB in the place of 35. It fuses what
changes one number at a time, but not an operator of two inputs.
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.export.graph.facts import infer, reduced_axes
from radixrt.export.graph.writer import GraphWriter

_EXTREMES = frozenset({"ReduceMax", "ReduceMin"})


def extremes_apart(model: ir.Model) -> ir.Model:
    """Writes every maximum and minimum over channels of an INT8 graph so, in place."""
    extremes = [node for node in model.graph if node.op_type in _EXTREMES and not node.domain]
    if extremes:
        infer(model)
    writer = GraphWriter(model.graph)
    for node in extremes:
        data = node.inputs[0]
        if data is None or data.shape is None or 1 not in reduced_axes(node, len(data.shape)):
            continue
        found = node.outputs[0]
        same = writer.op("Max", [found, found], f"{found.name}_apart", dtype=found.dtype, shape=found.shape)
        writer.put_behind(found, same)
    return model
