"""Small graphs that stand for one shape of a network: what is timed or compiled when forms are compared.

A convolution is followed by its ReLU, as in these networks: an engine joins the two, and a form that keeps them
apart must pay for it. The forms come from the same passes that rewrite the network. In INT8 its
ends carry Q/DQ pairs, and what lies between them is as the placement leaves it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from radixrt.calibration.int8 import QMAX, UNSIGNED_MAX, scale_from_amax
from radixrt.calibration.placement.insert import Inserter, is_unsigned
from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.export.graph.facts import static_dims
from radixrt.export.passes.conv_shape import ConvShape, Form
from radixrt.export.passes.grouped_conv import GroupedConv
from radixrt.export.passes.pool_conv import PoolConv, PoolConvShape, PoolForm
from radixrt.export.spec import Precision, Traits

_OPSET = 18
_AMAX = 3.0  # inputs are standard normal: three sigma


def grouped_conv_graph(shape: ConvShape, form: Form, precision: Precision, traits: Traits) -> ir.Model:
    """Returns Conv and Relu of a shape, in one form; in INT8 as a target of such traits wants it.

    Raises:
        ValueError: the shape's height or width is open.
    """
    x, nodes, y = _conv_chain(shape, precision)
    model = GroupedConv(lambda _: (form, ""))(_model([x], nodes, y)).model
    return _quantised(model, traits) if precision is Precision.INT8 else model


def pool_conv_graph(shape: PoolConvShape, form: PoolForm, precision: Precision, traits: Traits) -> ir.Model:
    """Returns AveragePool, Conv 1x1 and Relu, or the one convolution that stands for the first two.

    In INT8 the graph is quantised as a target of such traits wants it.

    Raises:
        ValueError: the shape's height or width is open.
    """
    whole = shape.conv
    if whole.height is None or whole.width is None:
        raise ValueError("the size is open")
    top, left, bottom, right = whole.pads
    kernel, stride = whole.kernel, shape.pool_stride
    pooled = (
        (whole.height + top + bottom - (kernel[0] - 1) * whole.dilation[0] - 1) // stride[0] + 1,
        (whole.width + left + right - (kernel[1] - 1) * whole.dilation[1] - 1) // stride[1] + 1,
    )
    point = ConvShape(
        whole.batch,
        whole.in_channels,
        whole.out_channels,
        whole.groups,
        (1, 1),
        stride=(whole.stride[0] // stride[0], whole.stride[1] // stride[1]),
        height=pooled[0],
        width=pooled[1],
    )
    middle, nodes, y = _conv_chain(point, precision)
    middle.name = "pooled"
    x = _tensor("input", [whole.batch, whole.in_channels, whole.height, whole.width], precision)
    attributes = [
        ir.AttrInt64s("kernel_shape", kernel),
        ir.AttrInt64s("strides", stride),
        ir.AttrInt64s("pads", whole.pads),
        ir.AttrInt64("count_include_pad", 1),
    ]
    if whole.dilation != (1, 1):
        attributes.append(ir.AttrInt64s("dilations", whole.dilation))
    pool = ir.Node("", "AveragePool", [x], attributes, outputs=[middle], name="pool")
    model = PoolConv(lambda _: (form, ""))(_model([x], [pool, *nodes], y)).model
    return _quantised(model, traits) if precision is Precision.INT8 else model


def _tensor(name: str, shape: list[int], precision: Precision) -> ir.Value:
    dtype = ir.DataType.FLOAT16 if precision is Precision.FP16 else ir.DataType.FLOAT
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))


def _conv_chain(shape: ConvShape, precision: Precision) -> tuple[ir.Value, list[ir.Node], ir.Value]:
    size = shape.output_size
    if size is None or shape.height is None or shape.width is None:
        raise ValueError("the size is open")
    rng = np.random.default_rng(0)
    dtype = np.float16 if precision is Precision.FP16 else np.float32
    fan_in = shape.in_channels // shape.groups * shape.kernel[0] * shape.kernel[1]
    weight = rng.standard_normal((shape.out_channels, shape.in_channels // shape.groups, *shape.kernel))
    arrays = {"weight": weight / fan_in**0.5, "bias": rng.standard_normal(shape.out_channels) / 10}
    x = _tensor("input", [shape.batch, shape.in_channels, shape.height, shape.width], precision)
    middle = _tensor("conv_out", [shape.batch, shape.out_channels, *size], precision)
    y = _tensor("output", [shape.batch, shape.out_channels, *size], precision)
    constants = []
    for name, array in arrays.items():
        tensor = ir.tensor(array.astype(dtype), name=name)
        constants.append(
            ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    attributes = [
        ir.AttrInt64("group", shape.groups),
        ir.AttrInt64s("kernel_shape", shape.kernel),
        ir.AttrInt64s("strides", shape.stride),
        ir.AttrInt64s("dilations", shape.dilation),
        ir.AttrInt64s("pads", shape.pads),
    ]
    conv = ir.Node("", "Conv", [x, *constants], attributes, outputs=[middle], name="conv")
    return x, [conv, ir.Node("", "Relu", [middle], outputs=[y], name="relu")], y


def _model(inputs: list[ir.Value], nodes: list[ir.Node], output: ir.Value) -> ir.Model:
    constants = [v for node in nodes for v in node.inputs if v is not None and v.const_value is not None]
    graph = ir.Graph(inputs, [output], nodes=nodes, initializers=constants, opset_imports={"": _OPSET}, name="form")
    return ir.Model(graph, ir_version=10)


def _quantised(model: ir.Model, traits: Traits) -> ir.Model:
    """A graph as the placement leaves it between quantised neighbours: its ends carry Q/DQ pairs in any case."""
    # The graph stands for layers anywhere in a network, and a light layer is compared in INT8 as well.
    options = PlacementOptions(replace(traits, weights_per_output=0), first=Ends.INT8, last=Ends.INT8)
    shape = [size or 1 for size in static_dims(model.graph.inputs[0])]
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    table = calibrate(model, [noise])
    placed, _ = place(model, table.with_amax({tensor.name: _AMAX for tensor in table.tensors}), options)
    graph = placed.graph
    inserter = Inserter(graph)
    (source,), (result,) = graph.inputs, graph.outputs
    if not any(node.op_type == "QuantizeLinear" for node in source.consumers()):
        inserter.activation(source, scale_from_amax(_AMAX))
    unsigned = is_unsigned(result, options)
    scale = scale_from_amax(_AMAX, levels=UNSIGNED_MAX if unsigned else QMAX)
    graph.outputs[0] = inserter.activation(result, scale, unsigned=unsigned)
    return placed


def radix_graph(channels: int, side: int, precision: Precision) -> ir.Model:
    """Returns a split-attention block of radix 2 between two convolutions, before any lowering.

    Args:
        channels: of the block's output.
        side: height and width of its feature map.
        precision: FP16 types the graph so; every other is FP32, for the gate's own precision does not choose its form.
    """
    half = precision is Precision.FP16
    elem, dtype = (ir.DataType.FLOAT16, np.float16) if half else (ir.DataType.FLOAT, np.float32)
    rng = np.random.default_rng(0)
    wide, hidden = 2 * channels, max(channels // 2, 32)
    nodes: list[ir.Node] = []

    def constant(name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)

    def add(op: str, inputs: list[ir.Value], name: str, shape: list[int], **attributes: int | list[int]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(elem))
        nodes.append(ir.node(op, inputs, attributes, outputs=[value], name=f"node_{name}"))
        return value

    def conv(data: ir.Value, name: str, shape: tuple[int, ...], size: int, **attributes: int | list[int]) -> ir.Value:
        weight = rng.standard_normal(shape) / float(np.prod(shape[1:])) ** 0.5
        inputs = [constant(f"{name}.weight", weight.astype(dtype)), constant(f"{name}.bias", np.zeros(shape[0], dtype))]
        return add("Conv", [data, *inputs], name, [1, shape[0], size, size], **attributes)

    def integers(name: str, *numbers: int) -> ir.Value:
        return constant(name, np.asarray(numbers, np.int64))

    x = _tensor("input", [1, channels, side, side], precision)
    radix = conv(x, "radix", (wide, channels // 2, 3, 3), side, group=2, pads=[1, 1, 1, 1])
    maps = add("Relu", [radix], "maps", [1, wide, side, side])
    shape5 = [1, 2, channels, side, side]
    apart = add("Reshape", [maps, integers("shape5", *shape5)], "apart", shape5)
    total = add("ReduceSum", [apart, integers("one", 1)], "total", [1, channels, side, side], keepdims=0)
    pooled = add("GlobalAveragePool", [total], "pooled", [1, channels, 1, 1])
    features = add("Relu", [conv(pooled, "fc1", (hidden, channels, 1, 1), 1)], "features", [1, hidden, 1, 1])
    logits = conv(features, "fc2", (wide, hidden, 1, 1), 1)
    branches = add("Reshape", [logits, integers("shape_b", 1, 2, channels, 1, 1)], "branches", [1, 2, channels, 1, 1])
    gate = add("Softmax", [branches], "gate", [1, 2, channels, 1, 1], axis=1)
    scaled = add("Mul", [apart, gate], "scaled", shape5)
    mixed = add("ReduceSum", [scaled, integers("one_", 1)], "mixed", [1, channels, side, side], keepdims=0)
    y = conv(mixed, "output", (4 * channels, channels, 1, 1), side)
    return _model([x], nodes, y)
