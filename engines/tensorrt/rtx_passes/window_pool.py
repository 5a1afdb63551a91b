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

from radixrt.export.graph.constants import array_of, forget, is_constant
from radixrt.export.graph.origin import take_place
from radixrt.export.passes.pass_result import PassResult


def pool_by_window(model: ir.Model) -> PassResult:
    """Writes every global average pooling of a static size as an AveragePool. Changes the model in place."""
    changed = False
    for node in list(model.graph):
        window = _window(node)
        if window is None:
            continue
        output = node.outputs[0]
        value = ir.Value(name=output.name, shape=output.shape, type=output.type)
        kernel = [ir.AttrInt64s("kernel_shape", window)]
        made = ir.Node("", "AveragePool", [node.inputs[0]], kernel, outputs=[value], name=node.name)
        take_place(node, made)
        constants = [constant for constant in node.inputs[1:] if constant is not None]
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [made], [output], [value])
        for constant in constants:
            forget(model.graph, constant)
        changed = True
    return PassResult(changed)


def _window(node: ir.Node) -> tuple[int, int] | None:
    """The height and width that a node averages over, None where it is not a global average of a static size."""
    if node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
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
    keep = node.attributes.get("keepdims")
    if keep is not None and keep.as_int() == 0:
        return False
    attribute = node.attributes.get("axes")
    if attribute is not None:
        axes = np.asarray(attribute.as_ints())
    elif len(node.inputs) > 1 and node.inputs[1] is not None and is_constant(node.inputs[1]):
        axes = array_of(node.inputs[1])
    else:
        return False
    return {int(axis) % 4 for axis in axes.reshape(-1)} == {2, 3}
