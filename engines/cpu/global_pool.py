"""For ONNX Runtime's INT8: the mean over a map is a GlobalAveragePool, which has an INT8 kernel.

Before::

    y = ReduceMean(x, axes=[2, 3])                          (N, C, 1, 1) or, without keepdims, (N, C)

After::

    y = GlobalAveragePool(x)                                and a Flatten, without keepdims
"""

from __future__ import annotations

import onnx_ir as ir

from radixrt.export.graph.facts import reduced_axes
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.report import PassResult


class MeansAsPools(Pass):
    """Writes every such mean so."""

    def call(self, model: ir.Model) -> PassResult:
        changed = False
        writer = GraphWriter(model.graph)
        for node in list(model.graph):
            data = node.inputs[0] if node.op_type == "ReduceMean" and not node.domain else None
            if data is None or data.shape is None or len(data.shape) != 4 or reduced_axes(node, 4) != {2, 3}:
                continue
            kept, output = bool(node.attributes.get_int("keepdims", 1)), node.outputs[0]
            shape = ir.Shape([*data.shape[:2], 1, 1])
            pooled = writer.op("GlobalAveragePool", [data], f"{output.name}_pooled", shape=shape, instead_of=node)
            if not kept:
                pooled = writer.op("Flatten", [pooled], f"{output.name}_flat", origin=node)
            writer.commit(output, pooled)
            changed = True
        return PassResult(model, modified=changed)
