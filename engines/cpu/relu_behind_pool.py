"""For ONNX Runtime's INT8: the first convolution's ReLU moves behind the MaxPool that follows it.

Before::

    y = MaxPool(Relu(Conv(image)))

After::

    y = Relu(MaxPool(Conv(image)))

The largest of a window is the same number before and after a ReLU, so this is exact. The first convolution stays in
float, and what the next one reads is quantised behind the pooling. ONNX Runtime moves that QuantizeLinear in front of
the pooling, and its MaxPool of bytes is slow where the convolution before it is not INT8: in SE-ResNet-50 at 224x224
it took longer than that convolution. A ReLU in between keeps it behind, and vanishes into it. Whoever else reads the
first ReLU goes on doing so.
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.export.graph.facts import made_by
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.report import PassResult


class ReluBehindPool(Pass):
    """Swaps every such pair."""

    def call(self, model: ir.Model) -> PassResult:
        changed = False
        writer = GraphWriter(model.graph)
        for pool in list(model.graph):
            relu = _relu_before(pool)
            if relu is None:
                continue
            pooled, known = pool.outputs[0], relu.outputs[0]
            moves = len(known.uses()) == 1 and not known.is_graph_output()
            signed = writer.op(
                "MaxPool", relu.inputs, f"{pooled.name}_signed", pool.attributes, shape=pooled.shape, instead_of=pool
            )
            rectified = writer.op(
                "Relu", [signed], f"{pooled.name}_rectified", origin=relu, instead_of=relu if moves else None
            )
            writer.commit(pooled, rectified)
            changed = True
        return PassResult(model, modified=changed)


def _relu_before(pool: ir.Node) -> ir.Node | None:
    """The ReLU between a MaxPool and a convolution of the graph's input."""
    if pool.op_type != "MaxPool" or pool.domain != "" or len(pool.outputs) != 1:
        return None
    relu = made_by(pool.inputs[0], "Relu")
    conv = None if relu is None else made_by(relu.inputs[0], "Conv")
    image = None if conv is None else conv.inputs[0]
    return relu if image is not None and image.is_graph_input() else None
