"""A Softmax between a Flatten and the Reshape back becomes one over the axis that it runs over.

Before opset 13 a Softmax ran over all axes from its own on. The converter writes that as::

    x ──► Flatten(k) ──► Softmax(-1) ──► Reshape(shape of x)

which mixes the batch into rows. Where only one axis from ``k`` on is longer than one, it is::

    x ──► Softmax(that axis)
"""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from radixrt.export.graph.shapes import Concrete, Sizes, concretise
from radixrt.export.sides import Sides


def name_softmax_axes(model: ir.Model, sides: Sides | None = None) -> None:
    """Names the axis of each such Softmax of ``model``, whose image has such ``sides``, in place."""
    found = [triple for node in model.graph if (triple := _triple(node)) is not None]
    probes = [concretise(model.graph, sizes) for sizes in Sizes.probes(sides)] if found else []
    for flatten, softmax, reshape in found:
        axis = _axis(flatten, reshape, probes)
        if axis is None:
            continue
        softmax.attributes["axis"] = ir.AttrInt64("axis", axis)
        softmax.replace_input_with(0, flatten.inputs[0])
        result = softmax.outputs[0]
        result.shape = reshape.outputs[0].shape
        ir.convenience.replace_all_uses_with(reshape.outputs[0], result)
        for node in (reshape, flatten):
            if not any(value.uses() for value in node.outputs):
                model.graph.remove(node, safe=True)


def _triple(softmax: ir.Node) -> tuple[ir.Node, ir.Node, ir.Node] | None:
    if softmax.op_type not in ("Softmax", "LogSoftmax") or softmax.attributes.get_int("axis", -1) not in (-1, 1):
        return None
    before = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
    after = softmax.outputs[0].consumers()
    if before is None or before.op_type != "Flatten" or len(after) != 1 or after[0].op_type != "Reshape":
        return None
    # An output's name would have to move.
    is_output = softmax.outputs[0].is_graph_output() or after[0].outputs[0].is_graph_output()
    return None if is_output else (before, softmax, after[0])


def _axis(flatten: ir.Node, reshape: ir.Node, probes: list[Concrete]) -> int | None:
    """The one axis that the rows of ``flatten`` consist of, where ``reshape`` undoes it."""
    found = set()
    for probe in probes:
        shape = probe.shapes.get(flatten.inputs[0]) if flatten.inputs[0] is not None else None
        if shape is None or shape != probe.shapes.get(reshape.outputs[0]):
            return None
        start = flatten.attributes.get_int("axis", 1) % (len(shape) + 1)
        longer = [axis for axis in range(start, len(shape)) if shape[axis] != 1]
        found.add(longer[0] if longer else start)
        if len(longer) > 1 or prod(shape[start:]) == 0 or start >= len(shape):
            return None
    return found.pop() if len(found) == 1 else None
