"""What TensorRT for RTX is given in another spelling because its compiler fuses that one better.

Before::

    s = GlobalAveragePool(x)                        or ReduceMean over height and width, dimensions kept

After::

    s = AveragePool(x, kernel_shape=(H, W))         H and W static

The builder compiles a global pooling as a reduction of its own code generator. That generator wants channels
outermost while convolutions write them innermost, so it puts a transposition of the whole feature map in between;
where the map comes from a ReLU it takes bias and ReLU out of the convolution's kernel instead. An AveragePool with
a window of the whole image has a kernel that reads the convolution's own layout. ``docs/decisions/tensorrt-rtx-
forms.md`` has the counts.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import array_of, is_constant
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.report import PassResult


class WindowPool(Pass):
    """Writes every global average pooling of a static size as an AveragePool."""

    def call(self, model: ir.Model) -> PassResult:
        changed = False
        writer = GraphWriter(model.graph)
        for node in list(model.graph):
            window = _window(node)
            if window is None:
                continue
            output = node.outputs[0]
            kernel = {"kernel_shape": window}
            new = writer.op("AveragePool", node.inputs[:1], f"{output.name}.window", kernel, instead_of=node)
            writer.commit(output, new)
            changed = True
        return PassResult(model, modified=changed)


def _window(node: ir.Node) -> tuple[int, int] | None:
    """The height and width that a node averages over, None where it is not a global average of a static size."""
    if node.domain != "" or not node.inputs or node.inputs[0] is None:
        return None
    shape = node.inputs[0].shape
    if shape is None or len(shape) != 4:
        return None
    height, width = shape[2], shape[3]
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    if node.op_type == "GlobalAveragePool" or (node.op_type == "ReduceMean" and _over_the_image(node)):
        return height, width
    return None


def _over_the_image(node: ir.Node) -> bool:
    if node.attributes.get_int("keepdims", 1) == 0:
        return False
    attribute = node.attributes.get_ints("axes")
    if attribute is not None:
        axes = np.asarray(attribute)
    elif len(node.inputs) > 1 and node.inputs[1] is not None and is_constant(node.inputs[1]):
        axes = array_of(node.inputs[1])
    else:
        return False
    return {int(axis) % 4 for axis in axes.reshape(-1)} == {2, 3}
