"""For ONNX Runtime's INT8: hard swish in parts that have INT8 kernels.

Before::

    y = HardSwish(x)                       x * min(max(x + 3, 0), 6) / 6

After::

    c = Clip(x, -3)        y = Mul(c, HardSigmoid(c, 1/6, 1/2))

Below -3 hard swish is zero, so the Clip changes nothing; what it buys is a range that begins at -3, where the largest
negative number may lie far below. ONNX Runtime has no INT8 hard swish, but has a product, and its sum does for the
hard sigmoid (``integer_gates.py``).

Refused: a hard swish of what no convolution makes, or of what the first one makes, which stays in float.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.facts import root_of
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.report import PassResult


class HardSwishParts(Pass):
    """Takes every such hard swish apart."""

    def call(self, model: ir.Model) -> PassResult:
        changed = False
        writer = GraphWriter(model.graph)
        for node in list(model.graph):
            if node.op_type != "HardSwish" or node.domain or not _behind_inner_convolution(node):
                continue
            data, output = node.inputs[0], node.outputs[0]
            assert data is not None
            low = writer.constant(np.asarray(-3, np.float32), "hard_swish_low")
            clipped = writer.op("Clip", [data, low], f"{output.name}_clipped", shape=output.shape, origin=node)
            gate = writer.op(
                "HardSigmoid",
                [clipped],
                f"{output.name}_gate",
                {"alpha": 1 / 6, "beta": 0.5},
                shape=output.shape,
                origin=node,
            )
            writer.commit(output, writer.op("Mul", [clipped, gate], f"{output.name}_product", instead_of=node))
            changed = True
        return PassResult(model, modified=changed)


def _behind_inner_convolution(node: ir.Node) -> bool:
    data = node.inputs[0]
    maker = None if data is None else data.producer()
    if maker is None or maker.op_type != "Conv" or data is None or data.dtype is not ir.DataType.FLOAT:
        return False
    return maker.inputs[0] is not None and not root_of(maker.inputs[0]).is_graph_input()
