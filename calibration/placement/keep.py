"""Which layers stay in float, and why: six rules, asked in order; and what no rule quantises.

named
    The user, or accuracy recovery, asked for it.
gate path
    The squeeze (global pooling), the fully connected layers on the pooled vector and the sigmoid or softmax are a
    thousandth of the arithmetic and decide which channels live. They are in INT8 where the target's clock was asked
    and says so. A layer is on the gate path when it reads a pooled
    tensor and its result is multiplied into a feature map; the classifier reads a pooled tensor too, but its result
    leaves the graph, or, where it is of boxes, is put into shapes that only look like maps.
narrow group
    INT8 kernels of some targets exist only for groups whose width is a multiple of a number. Below 16 channels a group
    stays in float by rule where nothing was timed: such kernels, depthwise ones above all, are often the slower ones.
ends
    The first layer reads three channels and gains little from INT8; the last makes an output and costs little. Both
    are choices, to be measured (``radixrt sensitivity``), so both are options.
transposed
    A transposed convolution runs in INT8 where the target has a kernel for it, and only with one group: then each of
    its output channels has a scale of its own.
light
    Where INT8 layers write floats, INT8 pays only for layers whose weights are heavy beside what they write.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.export.graph.constants import constant
from radixrt.export.graph.facts import commutes, is_pooled, is_wide, root_of, static_dims
from radixrt.export.graph.layers import LAYER_TYPES, Layer
from radixrt.export.graph.origin import module_of

NARROW = 16


def reason(layer: Layer, options: PlacementOptions) -> str | None:
    """Why a layer stays in float, by the first rule that objects; None where it runs in INT8."""
    return next((why for rule in _RULES if (why := rule(layer, options)) is not None), None)


def unruled(node: ir.Node) -> str | None:
    """Why an operation on feature maps that decoders and pyramids are made of stays in float; None for any other."""
    if node.op_type not in _UNRULED or node.domain or not is_wide(node.outputs[0]) or commutes(node):
        return None
    if node.op_type == "ConvTranspose" and constant(node.inputs[1]) is not None:
        return None
    return f"{node.op_type}: {_UNRULED[node.op_type]}, so it stays in float"


_UNRULED = {
    "ConvTranspose": "its weights are computed",
    "Resize": "what it interpolates may lie outside the range of what it reads",
    "Pad": "what it pads with may lie outside the range of what it reads",
}


def _named(layer: Layer, options: PlacementOptions) -> str | None:
    return "kept in float on request" if _is_named(layer, options.exclude) else None


def _is_named(layer: Layer, names: frozenset[str]) -> bool:
    """Whether a layer is named: by its node, its output tensor, its torch module, or a module around it."""
    module = module_of(layer.node)
    if {layer.node.name, layer.output.name, module} & names:
        return True
    return any(module.startswith(f"{name}.") for name in names)


def _gate_path(layer: Layer, options: PlacementOptions) -> str | None:
    if not is_pooled(layer.output) or not is_pooled(layer.data):
        return None
    timed = options.timed.get(layer.name)
    if timed is not None:
        return None if timed.int8 else timed.why
    if not any(node.op_type == "Mul" and is_wide(node.outputs[0]) for node in _behind(layer.output)):
        return None
    return "gate path: it is tiny and decides channels, so it stays in high precision"


def _narrow_group(layer: Layer, options: PlacementOptions) -> str | None:
    if layer.groups == 1 or layer.node.op_type == "ConvTranspose":
        return None
    width_in = int(layer.weight.shape[1])
    width_out = int(layer.weight.shape[0]) // layer.groups
    width, multiple = min(width_in, width_out), options.traits.group_multiple
    if width_in % multiple or width_out % multiple:
        return f"group width {width} is not a multiple of {multiple}: no INT8 kernel fits it"
    timed = options.timed.get(layer.name)
    if timed is not None:
        return None if timed.int8 else timed.why
    if width >= NARROW:
        return None
    return f"group width {width} is below {NARROW}: kept in float by rule, which nothing was timed for here"


def _transposed(layer: Layer, options: PlacementOptions) -> str | None:
    if layer.node.op_type != "ConvTranspose":
        return None
    if not options.traits.int8_transposed:
        return f"{options.traits.title} has no INT8 kernel for a transposed convolution"
    if layer.groups > 1:
        return "a transposed convolution in groups has no scale for each output channel"
    return None


def _end(layer: Layer, options: PlacementOptions) -> str | None:
    if options.first is Ends.FLOAT and root_of(layer.data).is_graph_input():
        return "first layer: kept in float by option, INT8 gains little on so few channels"
    if options.last is Ends.FLOAT and not any(node.op_type in LAYER_TYPES for node in _behind(layer.output)):
        return "last layer: kept in float by option, it makes an output"
    return None


def _light(layer: Layer, options: PlacementOptions) -> str | None:
    # An open batch counts as one image, for which weights weigh most.
    written = math.prod(size or 1 for size in static_dims(layer.output))
    if layer.weight.size >= options.traits.weights_per_output * written:
        return None
    return f"{options.traits.title} writes FP32 after INT8: {layer.weight.size:,} weights save less than that costs"


def _behind(value: ir.Value) -> Iterator[ir.Node]:
    """Every node that a value reaches, each once."""
    queue, seen = [value], set[int]()
    while queue:
        for node in queue.pop().consumers():
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                queue.extend(node.outputs)


# The first objection is the one reported: the most specific first.
_RULES = (_named, _gate_path, _transposed, _narrow_group, _end, _light)
