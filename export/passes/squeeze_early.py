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

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import array_of, is_constant
from radixrt.export.graph.shapes import Concrete
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import ProvedPass, Rewrite
from radixrt.export.passes.conv_shape import ConvShape, read_shape

# The algebra does not depend on the image's size: a small odd one proves it in no time.
_PROOF_IMAGES, _PROOF_SIZE = 2, (3, 5)


class SqueezeEarly(ProvedPass):
    """Moves every squeeze that can move."""

    refusal = "squeeze before the convolution"

    def match(self, node: ir.Node) -> Rewrite | None:
        squeeze = _match(node)
        if squeeze is None:
            return None
        return Rewrite(
            name=node.name or "",
            nodes=(squeeze.convolution.node, squeeze.pool, node),
            write=partial(_write, squeeze),
            sizes=_at_proof_size(squeeze),
        )


@dataclass(frozen=True, eq=False)
class _Pointwise:
    """A 1x1 convolution with neither stride, groups nor padding.

    Attributes:
        node: the Conv.
        data: what it reads.
        weight: (out, in).
        bias: (out,).
    """

    node: ir.Node
    data: ir.Value
    weight: NDArray[Any]
    bias: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Squeeze:
    """A pooling between two pointwise convolutions, of which the second is the first FC; ``dtype`` is that of all."""

    convolution: _Pointwise
    pool: ir.Node
    excite: _Pointwise
    dtype: ir.DataType


def _match(node: ir.Node) -> _Squeeze | None:
    excite = _pointwise(node)
    pool = None if excite is None else excite.data.producer()
    if excite is None or pool is None or pool.op_type != "GlobalAveragePool" or pool.inputs[0] is None:
        return None
    if len(excite.data.uses()) != 1 or excite.data.is_graph_output():
        return None
    producer = pool.inputs[0].producer()
    convolution = None if producer is None else _pointwise(producer)
    if convolution is None or convolution.weight.shape[1] > convolution.weight.shape[0]:
        return None
    dtype = node.outputs[0].dtype or convolution.data.dtype
    return None if dtype is None else _Squeeze(convolution=convolution, pool=pool, excite=excite, dtype=dtype)


def _pointwise(node: ir.Node) -> _Pointwise | None:
    if node.op_type != "Conv" or node.domain != "" or not all(v is None or is_constant(v) for v in node.inputs[1:]):
        return None
    shape = read_shape(node)
    if not isinstance(shape, ConvShape) or shape.groups != 1 or any(shape.pads):
        return None
    data, weight, *rest = node.inputs
    if shape.kernel != (1, 1) or shape.stride != (1, 1) or data is None or weight is None:
        return None
    bias = rest[0] if rest else None
    return _Pointwise(
        node=node,
        data=data,
        weight=array_of(weight)[:, :, 0, 0],
        bias=np.zeros(shape.out_channels) if bias is None else array_of(bias).astype(np.float64),
    )


def _write(squeeze: _Squeeze, writer: GraphWriter) -> ir.Value:
    inner, outer = squeeze.convolution, squeeze.excite
    second = outer.weight.astype(np.float64)
    folded = second @ inner.weight.astype(np.float64)
    bias = second @ inner.bias + outer.bias
    name = outer.node.name or outer.node.outputs[0].name
    weights = [
        writer.constant(folded[:, :, None, None].astype(outer.weight.dtype), f"{name}.early_weight"),
        writer.constant(bias.astype(outer.weight.dtype), f"{name}.early_bias"),
    ]
    batch = outer.data.shape[0] if outer.data.shape is not None else None
    shape = None if batch is None else ir.Shape([batch, inner.weight.shape[1], 1, 1])
    pooled = writer.op(
        "GlobalAveragePool",
        [inner.data],
        f"{name}.early_pool",
        dtype=squeeze.dtype,
        shape=shape,
        instead_of=squeeze.pool,
    )
    return writer.op("Conv", [pooled, *weights], f"{name}.early", outer.node.attributes, instead_of=outer.node)


def _at_proof_size(squeeze: _Squeeze) -> Concrete:
    shape = (_PROOF_IMAGES, squeeze.convolution.weight.shape[1], *_PROOF_SIZE)
    concrete = Concrete(shapes={squeeze.convolution.data: shape})
    concrete.types[squeeze.excite.node.outputs[0]] = ir.serde.serialize_type(ir.TensorType(squeeze.dtype))
    return concrete
