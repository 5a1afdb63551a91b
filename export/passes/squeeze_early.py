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
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import array_of, is_constant
from radixrt.export.graph.equivalence import prove
from radixrt.export.graph.shapes import Concrete
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass, Prove
from radixrt.export.passes.conv_shape import ConvShape, read_shape
from radixrt.export.passes.report import PassResult, Refusal

# The algebra does not depend on the image's size: a small odd one proves it in no time.
_PROOF_IMAGES, _PROOF_SIZE = 2, (3, 5)


@dataclass(frozen=True)
class SqueezeEarly(Pass):
    """Moves every squeeze that can move.

    Attributes:
        prove: says whether the moved squeeze computes what the old one did.
    """

    prove: Prove = prove

    def call(self, model: ir.Model) -> PassResult:
        changed, worst = False, 0.0
        refused: list[Refusal] = []
        writer = GraphWriter(model.graph)
        for node in list(model.graph):
            squeeze = _match(node)
            if squeeze is None:
                continue
            excite, output = squeeze.excite.node, squeeze.excite.node.outputs[0]
            before = (squeeze.convolution.node, squeeze.pool, excite)
            new = _write(squeeze, writer)
            proof = self.prove(before, writer.nodes, (output, new), _at_proof_size(squeeze))
            if proof.reason is not None:
                reason = f"squeeze before the convolution: {proof.reason}"
                refused.append(Refusal(node=excite.name or "", reason=reason))
                writer.discard()
                continue
            worst, changed = max(worst, proof.max_abs_err), True
            writer.commit(output, new)
        return PassResult(model, modified=changed, refused=tuple(refused), max_abs_err=worst)


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
