"""For ONNX Runtime's INT8: hard swish in parts that have INT8 kernels.

Before::

    y = HardSwish(x)                       x * min(max(x + 3, 0), 6) / 6

After::

    c = Clip(x, -3)        y = Mul(c, HardSigmoid(c, 1/6, 1/2))

Below -3 hard swish is zero, so the Clip changes nothing; what it buys is a range that begins at -3, where the largest
negative number may lie far below. ONNX Runtime has no INT8 hard swish, but has a product, and its sum does for the
hard sigmoid (``integer_gates.py``).

Each is proved before it is put in place. Refused: a hard swish of what no convolution makes, or of what the first one
makes, which stays in float.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.facts import root_of
from radixrt.export.graph.shapes import Concrete
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import ProvedPass, Rewrite

# Among so many standard normal numbers some lie below -3 and some above 3, where hard swish bends.
_PROOF_SHAPE = (1, 4, 32, 64)


class HardSwishParts(ProvedPass):
    """Takes every such hard swish apart."""

    refusal = "hard swish in parts"

    def match(self, node: ir.Node) -> Rewrite | None:
        if node.op_type != "HardSwish" or node.domain or not _behind_inner_convolution(node):
            return None
        assert node.inputs[0] is not None
        sizes = Concrete(shapes={node.inputs[0]: _PROOF_SHAPE})
        sizes.types[node.outputs[0]] = ir.serde.serialize_type(ir.TensorType(ir.DataType.FLOAT))
        return Rewrite(name=node.name or "", nodes=(node,), write=partial(_write, node), sizes=sizes)


def _write(node: ir.Node, writer: GraphWriter) -> ir.Value:
    data, output = node.inputs[0], node.outputs[0]
    assert data is not None
    low = writer.constant(np.asarray(-3, np.float32), "hard_swish_low")
    clipped = writer.op("Clip", [data, low], f"{output.name}_clipped", shape=output.shape, origin=node)
    slope = {"alpha": 1 / 6, "beta": 0.5}
    gate = writer.op("HardSigmoid", [clipped], f"{output.name}_gate", slope, shape=output.shape, origin=node)
    return writer.op("Mul", [clipped, gate], f"{output.name}_product", instead_of=node)


def _behind_inner_convolution(node: ir.Node) -> bool:
    data = node.inputs[0]
    maker = None if data is None else data.producer()
    if maker is None or maker.op_type != "Conv" or data is None or data.dtype is not ir.DataType.FLOAT:
        return False
    return maker.inputs[0] is not None and not root_of(maker.inputs[0]).is_graph_input()
