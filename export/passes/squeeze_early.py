"""The squeeze of an SE block moves in front of the 1x1 convolution whose output it pools.

Before::

    U = Conv1x1(h; W3, b3)            linear: no activation between it and the pooling
    s = GlobalAveragePool(U)
    z = Conv1x1(s; W1, b1)            the first FC

After::

    U = Conv1x1(h; W3, b3)
    s' = GlobalAveragePool(h)
    z = Conv1x1(s'; W1 W3, W1 b3 + b1)

An average over the image and a 1x1 convolution are both linear, and act on different axes, so they commute. In a
bottleneck h has a half or a quarter of U's channels, so the pooling reads that much less; and the gate no longer
waits for U, so an engine can apply it, add the residual and clip inside U's own kernel. Refused, with nothing
changed, where h is wider than U (the pooling would read more), where the convolution is strided, padded or grouped
(then the average of its input is another one), and where the pooled tensor is read elsewhere. Each move is proved
before it is made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import array_of, forget, initializer, is_constant
from radixrt.export.graph.equivalence import prove
from radixrt.export.graph.origin import take_place
from radixrt.export.graph.shapes import Concrete
from radixrt.export.passes.conv_shape import ConvShape, read_shape
from radixrt.export.passes.pass_result import PassResult
from radixrt.export.passes.report import Refusal

# The algebra does not depend on the image's size: a small odd one proves it in no time.
_PROOF_SIZE = (2, 3, 5)


def squeeze_early(model: ir.Model) -> PassResult:
    """Moves every squeeze that can move. Changes the model in place."""
    changed, worst = False, 0.0
    refused: list[Refusal] = []
    for excite in list(model.graph):
        found = _match(excite)
        if found is None:
            continue
        convolution, pool = found
        new = _build(model.graph, convolution, pool, excite)
        data, output = convolution.inputs[0], excite.outputs[0]
        assert data is not None and data.dtype is not None, "checked by _match"
        concrete = _small(data, output, _weight(convolution).shape)
        proof = prove((convolution, pool, excite), new, (output, new[-1].outputs[0]), concrete)
        if proof.reason is not None:
            refused.append(Refusal(node=excite.name or "", reason=f"squeeze before the convolution: {proof.reason}"))
            for value in new[-1].inputs[1:]:
                _drop(model.graph, new, value)
            continue
        worst, changed = max(worst, proof.max_abs_err), True
        _replace(model.graph, pool, excite, new)
    return PassResult(changed, refused=tuple(refused), max_abs_err=worst)


def _match(excite: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The convolution and the pooling in front of an FC, where all three are what the algebra asks for."""
    if not _pointwise(excite) or excite.inputs[0] is None:
        return None
    pool = excite.inputs[0].producer()
    if pool is None or pool.op_type != "GlobalAveragePool" or len(pool.outputs[0].uses()) != 1:
        return None
    if pool.outputs[0].is_graph_output() or pool.inputs[0] is None:
        return None
    convolution = pool.inputs[0].producer()
    if convolution is None or not _pointwise(convolution):
        return None
    data = convolution.inputs[0]
    out_channels, in_channels = _weight(convolution).shape[:2]
    narrower = in_channels <= out_channels and data is not None and data.dtype is not None
    return (convolution, pool) if narrower else None


def _pointwise(node: ir.Node) -> bool:
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return False
    if not all(value is None or is_constant(value) for value in node.inputs[1:]):
        return False
    shape = read_shape(node)
    return isinstance(shape, ConvShape) and (
        shape.kernel == (1, 1) and shape.stride == (1, 1) and shape.groups == 1 and not any(shape.pads)
    )


def _weight(node: ir.Node) -> NDArray[Any]:
    value = node.inputs[1]
    assert value is not None, "a Conv has a weight"
    return array_of(value)


def _bias(node: ir.Node) -> NDArray[Any]:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return np.zeros(_weight(node).shape[0]) if value is None else array_of(value).astype(np.float64)


def _build(graph: ir.Graph, convolution: ir.Node, pool: ir.Node, excite: ir.Node) -> list[ir.Node]:
    data = convolution.inputs[0]
    inner, outer = _weight(convolution), _weight(excite)
    first, second = inner[:, :, 0, 0].astype(np.float64), outer[:, :, 0, 0].astype(np.float64)
    folded = second @ first
    bias = second @ _bias(convolution) + _bias(excite)
    name = excite.name or excite.outputs[0].name
    weights = [
        initializer(graph, f"{name}.early_weight", folded[:, :, None, None].astype(outer.dtype)),
        initializer(graph, f"{name}.early_bias", bias.astype(outer.dtype)),
    ]
    old_pool, old_output = pool.outputs[0], excite.outputs[0]
    batch = old_pool.shape[0] if old_pool.shape is not None else None
    shape = ir.Shape([batch, inner.shape[1], 1, 1]) if batch is not None else None
    squeezed = ir.Value(name=f"{name}.early_pool", shape=shape, type=old_output.type)
    output = ir.Value(name=f"{name}.early", shape=old_output.shape, type=old_output.type)
    nodes = [
        ir.Node("", "GlobalAveragePool", [data], outputs=[squeezed], name=f"{pool.name}"),
        ir.Node("", "Conv", [squeezed, *weights], excite.attributes.values(), outputs=[output], name=excite.name),
    ]
    for old, made in zip((pool, excite), nodes, strict=True):
        take_place(old, made)
    return nodes


def _small(data: ir.Value, output: ir.Value, weight_shape: tuple[int, ...]) -> Concrete:
    images, height, width = _PROOF_SIZE
    known = Concrete(shapes={data: (images, weight_shape[1], height, width)})
    dtype = output.dtype or data.dtype
    assert dtype is not None, "checked by _match"
    known.types[output] = ir.serde.serialize_type(ir.TensorType(dtype))
    return known


def _replace(graph: ir.Graph, pool: ir.Node, excite: ir.Node, new: list[ir.Node]) -> None:
    constants = [value for value in excite.inputs[1:] if value is not None]
    ir.convenience.replace_nodes_and_values(graph, excite, [excite], new, [excite.outputs[0]], [new[-1].outputs[0]])
    graph.remove(pool, safe=True)
    for value in constants:
        forget(graph, value)


def _drop(graph: ir.Graph, new: list[ir.Node], value: ir.Value | None) -> None:
    """Takes back a weight that was made for a rewrite that missed."""
    if value is not None:
        for node, index in list(value.uses()):
            if node in new:
                node.replace_input_with(index, None)
        forget(graph, value)
