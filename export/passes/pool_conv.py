"""Average pooling followed by a 1x1 convolution can be one strided convolution, or a depthwise one before it.

Before::

    p = AveragePool(x, kernel_shape=(a, b), strides=s, pads=q)
    y = Conv(p, W, c, kernel_shape=(1, 1), strides=t)          W: (out, in/G, 1, 1)

After, one of::

    pool         as it was
    depthwise    p = Conv(x, 1/(ab), kernel_shape=(a, b), strides=s, pads=q, group=in);  y = Conv(p, W, c)
    conv         y = Conv(x, W', c, kernel_shape=(a, b), strides=s*t, pads=q)    W'[o, i, u, v] = W[o, i, 0, 0] / (ab)

An average over a full window is a convolution with the constant 1/(ab), and two linear maps compose. It is exact
where every window counts ``a b`` pixels: there is no padding, or ``count_include_pad`` counts it. It is refused
where a window hangs over the edge (``ceil_mode`` adds one and divides by the pixels inside), where the 1x1
convolution pads on its own (its padding lies after the bias-free average, outside the image), and where somebody
else reads the pooled tensor. One convolution trades a pass over the image for ``a b`` times the multiplications; a
depthwise one is for runtimes whose INT8 kernels of convolutions are better than those of poolings. So whether either
pays is measured (or, for a plan, counted), never assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import array_of, is_constant
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.writer import Attribute, GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.conv_shape import ConvShape, read_shape, same_pads
from radixrt.export.passes.report import PassResult, PoolConvRecord, Refusal


@dataclass(frozen=True)
class PoolConvShape:
    """An average pooling and the 1x1 convolution behind it.

    Attributes:
        conv: the one strided convolution that could stand for both, on the pooling's input.
        pool_stride: the pooling's own stride; the 1x1 convolution's is ``conv.stride / pool_stride``.
    """

    conv: ConvShape
    pool_stride: tuple[int, int]

    def __str__(self) -> str:
        return f"average pool {self.conv.kernel[0]}x{self.conv.kernel[1]} + 1x1 as {self.conv}"


PoolForm = Literal["pool", "depthwise", "conv"]
ChoosePoolForm: TypeAlias = Callable[[PoolConvShape], tuple[PoolForm, str]]
"""Says which of its three forms a pair gets, and why."""


@dataclass(frozen=True)
class PoolConv(Pass):
    """Turns average pooling before a 1x1 convolution into a convolution where that is exact and the chooser says so.

    Shapes must be inferred. There is a record for each exact pair, and a refusal for each that is not exact.

    Attributes:
        choose: asked once per pair.
        batch: images per run that the choice is made for, where the graph's batch is dynamic.
    """

    choose: ChoosePoolForm
    batch: int = 1

    def call(self, model: ir.Model) -> PassResult:
        records: list[PoolConvRecord] = []
        refused: list[Refusal] = []
        changed = False
        writer = GraphWriter(model.graph)
        for conv in list(model.graph):
            pair = pair_before(conv)
            if pair is None:
                continue
            shape = check(pair, self.batch)
            if isinstance(shape, str):
                reason = f"average pool and 1x1 convolution: {shape}"
                refused.append(Refusal(node=module_of(conv), reason=reason))
                continue
            form, why = self.choose(shape)
            records.append(PoolConvRecord(name=module_of(conv), form=form, why=why))
            if form == "conv":
                writer.commit(conv.outputs[0], _joined(pair, shape.conv, writer))
            elif form == "depthwise":
                writer.commit(pair.pool.outputs[0], _depthwise(pair, shape, writer))
            changed |= form != "pool"
        return PassResult(model, modified=changed, refused=tuple(refused), pool_convs=tuple(records))


@dataclass(frozen=True, eq=False)
class PoolConvPair:
    """An AveragePool of ``data``, and the 1x1 convolution with ``weight`` behind it: the pattern, unconditioned."""

    pool: ir.Node
    conv: ir.Node
    data: ir.Value
    weight: ir.Value


def pair_before(conv: ir.Node) -> PoolConvPair | None:
    """Returns the pair that ends in ``conv``, where it is a 1x1 convolution of an average."""
    if conv.op_type != "Conv" or conv.domain != "":
        return None
    pooled, weight, *_ = conv.inputs
    pool = None if pooled is None else pooled.producer()
    if pool is None or pool.op_type != "AveragePool" or weight is None or pool.inputs[0] is None:
        return None
    if weight.shape is None or len(weight.shape) != 4 or list(weight.shape)[2:] != [1, 1]:
        return None
    return PoolConvPair(pool=pool, conv=conv, data=pool.inputs[0], weight=weight)


def check(pair: PoolConvPair, batch: int = 1) -> PoolConvShape | str:
    """Tells whether a pair is exactly one convolution. Changes nothing.

    Returns:
        The pair's shape, or the reason why it is not exact.
    """
    pool, pooled = pair.pool, pair.pool.outputs[0]
    if not is_constant(pair.weight):
        return "the weight is not a constant"
    if len(pooled.uses()) != 1 or pooled.is_graph_output():
        return "the pooled tensor is read elsewhere"
    point = read_shape(pair.conv, batch)
    if isinstance(point, str):
        return point
    if any(point.pads):
        return "the 1x1 convolution pads on its own"
    kernel, stride, dilation = (_pair(pool, name) for name in ("kernel_shape", "strides", "dilations"))
    shape = pair.data.shape
    dims = [d if isinstance(d, int) else None for d in shape] if shape is not None else []
    images, _, height, width = dims if len(dims) == 4 else (None, None, None, None)
    pads = _pads(pool, kernel, stride, dilation, height, width)
    if isinstance(pads, str):
        return pads
    if any(pads) and not pool.attributes.get_int("count_include_pad", 0):
        return "padding is not counted, so windows at the edge divide by fewer pixels"
    whole = ConvShape(
        batch=images or batch,
        in_channels=point.in_channels,
        out_channels=point.out_channels,
        groups=point.groups,
        kernel=kernel,
        stride=(stride[0] * point.stride[0], stride[1] * point.stride[1]),
        dilation=dilation,
        pads=pads,
        height=height,
        width=width,
    )
    if pool.attributes.get_int("ceil_mode", 0) and not _windows_fit(whole, stride):
        return "ceil_mode lets the last window hang over the edge"
    return PoolConvShape(whole, stride)


def _pair(pool: ir.Node, name: str) -> tuple[int, int]:
    first, second = pool.attributes.get_ints(name, (1, 1))
    return first, second


def _pads(
    pool: ir.Node,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    height: int | None,
    width: int | None,
) -> tuple[int, int, int, int] | str:
    auto = pool.attributes.get_string("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        if height is None or width is None:
            return f"auto_pad {auto} of an open size"
        upper = auto == "SAME_UPPER"
        top, bottom = same_pads(height, kernel[0], stride[0], dilation[0], upper)
        left, right = same_pads(width, kernel[1], stride[1], dilation[1], upper)
        return top, left, bottom, right
    if auto == "VALID":
        return 0, 0, 0, 0
    top, left, bottom, right = pool.attributes.get_ints("pads", (0, 0, 0, 0))
    return top, left, bottom, right


def _windows_fit(whole: ConvShape, stride: tuple[int, int]) -> bool:
    """Whether rounding the output's size up adds no window: the strides end exactly at the edge."""
    if whole.height is None or whole.width is None:
        return False
    sizes = (whole.height + whole.pads[0] + whole.pads[2], whole.width + whole.pads[1] + whole.pads[3])
    return all(
        (size - (k - 1) * d - 1) % s == 0
        for size, k, d, s in zip(sizes, whole.kernel, whole.dilation, stride, strict=True)
    )


def _depthwise(pair: PoolConvPair, shape: PoolConvShape, writer: GraphWriter) -> ir.Value:
    whole, pooled = shape.conv, pair.pool.outputs[0]
    weight = np.full((whole.in_channels, 1, *whole.kernel), 1 / math.prod(whole.kernel), array_of(pair.weight).dtype)
    inputs = [pair.data, writer.constant(weight, f"{pooled.name}_avg{whole.kernel[0]}x{whole.kernel[1]}")]
    attributes = _attributes(replace(whole, groups=whole.in_channels, stride=shape.pool_stride))
    name = f"{pooled.name}_depthwise"
    return writer.op("Conv", inputs, name, attributes, shape=pooled.shape, instead_of=pair.pool)


def _joined(pair: PoolConvPair, whole: ConvShape, writer: GraphWriter) -> ir.Value:
    height, width = whole.kernel
    point = array_of(pair.weight)
    # Divided in float64 and rounded once: an area that is a power of two stays exact, any other is the nearest.
    spread = np.tile(point.astype(np.float64) / (height * width), (1, 1, height, width)).astype(point.dtype)
    weight = writer.constant(spread, f"{pair.weight.name}_avg{height}x{width}")
    inputs = [pair.data, weight, *pair.conv.inputs[2:]]
    return writer.op("Conv", inputs, f"{pair.conv.outputs[0].name}_joined", _attributes(whole), instead_of=pair.conv)


def _attributes(shape: ConvShape) -> dict[str, Attribute]:
    return {
        "group": shape.groups,
        "kernel_shape": shape.kernel,
        "strides": shape.stride,
        "dilations": shape.dilation,
        "pads": shape.pads,
    }
