"""Which tensors carry a Q/DQ pair, as the target's engines compute INT8 layers.

- What an INT8 layer reads is quantised, on every target.
- What an INT8 convolution makes is quantised behind its activation, so that it is written as INT8. Some targets run a
  convolution in INT8 only where its output is quantised right behind it: there every output is. Others compute a
  residual Add in the epilogue of the convolution before it: nothing may stand between the two, and an output that only
  feeds global pooling, or leaves the graph, stays float, where INT8 would cost accuracy and save nothing.
- Where the Add is in the epilogue, its kernel reads the skip branch from memory, which in INT8 is a quarter of
  the bytes. Where both inputs of the Add are convolutions, the skip branch is the shallower one.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from radixrt.export.graph.facts import activation_after, is_wide
from radixrt.export.graph.layers import LAYER_TYPES, Layer
from radixrt.export.spec import Int8Outputs, Traits

Layers = tuple[Layer, ...]


def points(layers: Layers, traits: Traits) -> Iterator[ir.Value]:
    """The tensors that carry a Q/DQ pair; some come more than once.

    Args:
        layers: that run in INT8.
        traits: which of their outputs the target needs quantised.
    """
    yield from (layer.data for layer in layers)
    match traits.int8_outputs:
        case Int8Outputs.NONE:
            return
        case Int8Outputs.ALL:
            yield from _outputs(layers, pooled=traits.int8_between)
        case Int8Outputs.EPILOGUE:
            made = {id(layer.output) for layer in layers}
            yield from (
                v for v in _outputs(layers, pooled=False) if _feeds_wide(v) and not (id(v) in made and _feeds_add(v))
            )
            yield from _skip_branches(layers)


def _outputs(layers: Layers, *, pooled: bool) -> Iterator[ir.Value]:
    """What each convolution makes, behind its activation; that of pooled vectors where ``pooled``."""
    for layer in layers:
        value = activation_after(layer.output)
        if (is_wide(layer.output) or (pooled and layer.node.op_type == "Conv")) and not value.is_graph_output():
            yield value


def _feeds_add(value: ir.Value) -> bool:
    return any(node.op_type == "Add" for node in value.consumers())


def _feeds_wide(value: ir.Value) -> bool:
    return any(is_wide(out) for node in value.consumers() for out in node.outputs)


def _skip_branches(layers: Layers) -> Iterator[ir.Value]:
    depths: dict[int, int] = {}
    for layer in layers:
        for add in activation_after(layer.output).consumers():
            if add.op_type != "Add" or not all(v is not None and is_wide(v) for v in add.inputs):
                continue
            first, second = add.inputs
            if first is not None and second is not None and first is not second:
                yield first if _depth(first, depths) < _depth(second, depths) else second


def _depth(value: ir.Value, depths: dict[int, int]) -> int:
    """The largest number of layers between the graph's inputs and a value; ``depths`` keeps what was counted."""
    stack = [value]
    while stack:
        current = stack[-1]
        node = current.producer()
        inputs = [] if node is None else [v for v in node.inputs if v is not None]
        missing = [v for v in inputs if id(v) not in depths]
        if missing:
            stack.extend(missing)
            continue
        own = int(node is not None and node.op_type in LAYER_TYPES)
        depths[id(current)] = own + max((depths[id(v)] for v in inputs), default=0)
        stack.pop()
    return depths[id(value)]
