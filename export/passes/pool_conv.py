"""Average pooling followed by a 1x1 convolution can be one strided convolution.

Before::

    p = AveragePool(x, kernel_shape=(a, b), strides=s, pads=q)
    y = Conv(p, W, c, kernel_shape=(1, 1), strides=t)          W: (out, in/G, 1, 1)

After::

    y = Conv(x, W' , c, kernel_shape=(a, b), strides=s*t, pads=q)      W'[o, i, u, v] = W[o, i, 0, 0] / (a b)

An average over a full window is a convolution with the constant 1/(ab), and two linear maps compose. It is exact
where every window counts ``a b`` pixels: there is no padding, or ``count_include_pad`` counts it. It is refused
where a window hangs over the edge (``ceil_mode`` adds one and divides by the pixels inside), where the 1x1
convolution pads on its own (its padding lies after the bias-free average, outside the image), and where somebody
else reads the pooled tensor. It trades a pass over the image for ``a b`` times the multiplications, so whether it
pays is measured (or, for a plan, counted), never assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.constants import array_of, forget, initializer, is_constant
from radixrt.export.graph.origin import module_of, take_place
from radixrt.export.passes.conv_shape import ConvShape, read_shape, same_pads
from radixrt.export.passes.report import Refusal


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


PoolForm = Literal["pool", "conv"]
ChoosePoolForm: TypeAlias = Callable[[PoolConvShape], tuple[PoolForm, str]]
"""Says whether the pair stays (``pool``) or becomes one convolution (``conv``), and why."""


@dataclass(frozen=True)
class PoolConvRecord:
    """What one pair got."""

    name: str
    form: PoolForm
    why: str


def apply_pool_forms(
    model: ir.Model, chooser: ChoosePoolForm, *, batch: int = 1
) -> tuple[ir.Model, list[PoolConvRecord], list[Refusal], bool]:
    """Turns average pooling and a 1x1 convolution into one convolution where that is exact and the chooser says so.

    Args:
        model: changed in place; shapes inferred.
        chooser: asked once per pair.
        batch: images per run that the choice is made for, where the graph's batch is dynamic.

    Returns:
        The model, a record per exact pair, a refusal per pair that is not exact, and whether anything changed.
    """
    records: list[PoolConvRecord] = []
    refusals: list[Refusal] = []
    changed = False
    for conv in list(model.graph):
        pool = _pool_before(conv)
        if pool is None:
            continue
        shape = check(pool, conv, batch)
        if isinstance(shape, str):
            refusals.append(Refusal(node=module_of(conv), reason=f"average pool and 1x1 convolution: {shape}"))
            continue
        form, why = chooser(shape)
        records.append(PoolConvRecord(module_of(conv), form, why))
        if form == "conv":
            _rewrite(model.graph, pool, conv, shape)
            changed = True
    return model, records, refusals, changed


def _pool_before(conv: ir.Node) -> ir.Node | None:
    """The AveragePool that feeds a 1x1 convolution: the pattern, without its conditions."""
    if conv.op_type != "Conv" or conv.domain not in ("", "ai.onnx") or conv.inputs[0] is None or conv.inputs[1] is None:
        return None
    pool, weight = conv.inputs[0].producer(), conv.inputs[1]
    if pool is None or pool.op_type != "AveragePool" or weight.shape is None or len(weight.shape) != 4:
        return None
    return pool if list(weight.shape)[2:] == [1, 1] else None


def _integers(node: ir.Node, name: str, default: tuple[int, int]) -> tuple[int, int]:
    attribute = node.attributes.get(name)
    first, second = attribute.as_ints() if attribute is not None else default
    return first, second


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and attribute.as_int() != 0


def check(pool: ir.Node, conv: ir.Node, batch: int = 1) -> PoolConvShape | str:
    """Tells whether a pair is exactly one convolution. Changes nothing.

    Returns:
        The pair's shape, or the reason why it is not exact.
    """
    data, pooled = pool.inputs[0], pool.outputs[0]
    weight = conv.inputs[1]
    if data is None or weight is None or not is_constant(weight):
        return "the weight is not a constant"
    if len(pooled.uses()) != 1 or pooled.is_graph_output():
        return "the pooled tensor is read elsewhere"
    point = read_shape(conv, batch)
    if isinstance(point, str):
        return point
    if any(point.pads):
        return "the 1x1 convolution pads on its own"
    kernel = _integers(pool, "kernel_shape", (1, 1))
    stride, dilation = _integers(pool, "strides", (1, 1)), _integers(pool, "dilations", (1, 1))
    dims = [d if isinstance(d, int) else None for d in data.shape] if data.shape is not None else []
    images, _, height, width = dims if len(dims) == 4 else (None, None, None, None)
    pads = _pads(pool, kernel, stride, dilation, height, width)
    if isinstance(pads, str):
        return pads
    if any(pads) and not _flag(pool, "count_include_pad"):
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
    if _flag(pool, "ceil_mode") and not _windows_fit(whole, stride):
        return "ceil_mode lets the last window hang over the edge"
    return PoolConvShape(whole, stride)


def _pads(
    pool: ir.Node,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    height: int | None,
    width: int | None,
) -> tuple[int, int, int, int] | str:
    auto_attribute = pool.attributes.get("auto_pad")
    auto = auto_attribute.as_string() if auto_attribute is not None else "NOTSET"
    if auto.startswith("SAME"):
        if height is None or width is None:
            return f"auto_pad {auto} of an open size"
        upper = auto == "SAME_UPPER"
        top, bottom = same_pads(height, kernel[0], stride[0], dilation[0], upper)
        left, right = same_pads(width, kernel[1], stride[1], dilation[1], upper)
        return top, left, bottom, right
    attribute = pool.attributes.get("pads")
    if auto == "VALID" or attribute is None:
        return 0, 0, 0, 0
    top, left, bottom, right = attribute.as_ints()
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


def _rewrite(graph: ir.Graph, pool: ir.Node, conv: ir.Node, shape: PoolConvShape) -> None:
    data, weight, whole = pool.inputs[0], conv.inputs[1], shape.conv
    assert data is not None and weight is not None, "checked"
    height, width = whole.kernel
    point = array_of(weight)
    # Divided in float64 and rounded once: an area that is a power of two stays exact, any other is the nearest.
    spread = np.tile(point.astype(np.float64) / (height * width), (1, 1, height, width)).astype(point.dtype)
    attributes = [
        ir.AttrInt64("group", whole.groups),
        ir.AttrInt64s("kernel_shape", whole.kernel),
        ir.AttrInt64s("strides", whole.stride),
        ir.AttrInt64s("dilations", whole.dilation),
        ir.AttrInt64s("pads", whole.pads),
    ]
    inputs = [data, initializer(graph, f"{weight.name}_avg{height}x{width}", spread), *conv.inputs[2:]]
    output = conv.outputs[0]
    joined = ir.Value(name=output.name, shape=output.shape, type=output.type)
    made = ir.Node("", "Conv", inputs, attributes, outputs=[joined], name=conv.name)
    take_place(conv, made)
    ir.convenience.replace_nodes_and_values(graph, conv, [conv], [made], [output], [joined])
    graph.remove(pool, safe=True)
    forget(graph, weight)
