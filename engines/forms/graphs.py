"""Small graphs that stand for one shape of a network: what is timed or compiled when forms are compared.

A convolution is followed by its ReLU, as in these networks: an engine joins the two, and a form that keeps them
apart must pay for it. The forms come from the same passes that rewrite the network. In INT8 a graph's ends carry Q/DQ
pairs, and what lies between them is as the placement leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import Grid, scale_from_amax
from radixrt.calibration.placement.decision import observed_values
from radixrt.calibration.placement.grid import grid_of
from radixrt.calibration.placement.insert import Inserter
from radixrt.calibration.placement.options import Ends, PlacementOptions, Timed, timed_layers
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.table import CalibrationTable, Candidates, HistogramSummary, TensorRange
from radixrt.calibration.spec import Method
from radixrt.engines.base import Target
from radixrt.export.graph.facts import Signs, infer, static_dims
from radixrt.export.graph.writer import Attributes, GraphWriter
from radixrt.export.passes.conv_shape import ConvShape, Form
from radixrt.export.passes.grouped_conv import GroupedConv
from radixrt.export.passes.light_layers import LightForm, LightLayers, LightShape
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.passes.pool_conv import PoolConv, PoolConvShape, PoolForm
from radixrt.export.spec import Precision, Traits

_OPSET = 18
_AMAX = 3.0  # inputs are standard normal: three sigma


def grouped_conv_graph(shape: ConvShape, form: Form, precision: Precision, traits: Traits) -> ir.Model:
    """Returns Conv and Relu of a shape, in one form; in INT8 as a target of such traits wants it.

    Raises:
        ValueError: the shape's height or width is open.
    """
    network = _Network([shape.batch, shape.in_channels, *_size(shape)], precision)
    model = network.finish(_conv_relu(network, network.input, shape))
    model = GroupedConv(lambda _: (form, ""))(model).model
    return _quantised(model, traits, _ranges(model)) if precision is Precision.INT8 else model


def pool_conv_graph(shape: PoolConvShape, form: PoolForm, precision: Precision, traits: Traits) -> ir.Model:
    """Returns AveragePool, Conv 1x1 and Relu, the first two in one form.

    In INT8 the graph is quantised as a target of such traits wants it, a depthwise convolution with it.

    Raises:
        ValueError: the shape's height or width is open.
    """
    whole, stride = shape.conv, shape.pool_stride
    network = _Network([whole.batch, whole.in_channels, *_size(whole)], precision)
    # The pooling moves its window as one convolution with the pooling's stride would.
    height, width = _output_size(replace(whole, stride=stride))
    attributes: Attributes = {
        "kernel_shape": whole.kernel,
        "strides": stride,
        "pads": whole.pads,
        "count_include_pad": 1,
        **({"dilations": whole.dilation} if whole.dilation != (1, 1) else {}),
    }
    pooled = network.op(
        "AveragePool", [network.input], "pooled", [whole.batch, whole.in_channels, height, width], attributes
    )
    point = ConvShape(
        batch=whole.batch,
        in_channels=whole.in_channels,
        out_channels=whole.out_channels,
        groups=whole.groups,
        kernel=(1, 1),
        stride=(whole.stride[0] // stride[0], whole.stride[1] // stride[1]),
        height=height,
        width=width,
    )
    model = network.finish(_conv_relu(network, pooled, point))
    model = PoolConv(lambda _: (form, ""))(model).model
    if precision is not Precision.INT8:
        return model
    found = LightLayers(lambda _: ("int8", ""))(model)
    return _quantised(
        found.model, traits, _ranges(found.model), {layer.node: Timed(True, "") for layer in found.light_layers}
    )


def light_graph(shape: LightShape, form: LightForm, target: Target) -> ir.Model:
    """Returns a light layer between two 1x1 convolutions in INT8, itself in one form.

    Raises:
        ValueError: the shape's height or width is open.
    """
    conv, network = shape.conv, _Network([shape.conv.batch, _around(shape), *_size(shape.conv)], Precision.INT8)
    squeezed = shape.squeezed or conv.in_channels
    point = ConvShape(conv.batch, _around(shape), squeezed, 1, (1, 1), height=conv.height, width=conv.width)
    wide = [conv.batch, conv.out_channels, *_output_size(conv)]
    data = _activated(network, _conv(network, network.input, point, "before"), shape.activation, "before_act")
    if shape.kind == "depthwise":
        light = _activated(network, _conv(network, data, conv, "light"), shape.activation, "light_act")
    else:
        light = _gated(network, data, shape)
    after = replace(point, in_channels=conv.out_channels, out_channels=_around(shape), height=wide[2], width=wide[3])
    model = network.finish(_conv(network, light, after, "after"))
    model, report = rewrite(
        model,
        RewriteOptions(
            choose_light=lambda one: (form if form in one.forms else "int8", ""),
            target_passes=target.passes(Precision.INT8),
        ),
    )
    noise = network.random.standard_normal([size or 1 for size in static_dims(model.graph.inputs[0])], np.float32)
    table = calibrate(model, [{model.graph.inputs[0].name or "": noise}])
    table = table.with_amax({tensor.name: _AMAX for tensor in table.tensors})
    return _quantised(model, target.traits, table, timed_layers(report))


def _around(shape: LightShape) -> int:
    """Channels of the convolutions around a light layer: networks widen four- to sixfold for it."""
    return max(shape.conv.in_channels // 64 * 16, 16)


def _gated(network: _Network, data: ir.Value, shape: LightShape) -> ir.Value:
    batch, channels, hidden = shape.conv.batch, shape.conv.in_channels, shape.hidden
    squeezed = shape.squeezed or channels
    pooled = network.op("GlobalAveragePool", [data], "pooled", [batch, squeezed, 1, 1])
    if squeezed != channels:
        data = _conv(network, data, replace(shape.conv, in_channels=squeezed, out_channels=channels), "widened")
    first = ConvShape(batch, squeezed, hidden, 1, (1, 1), height=1, width=1)
    features = _activated(network, _conv(network, pooled, first, "fc1"), "Relu", "features")
    second = replace(first, in_channels=hidden, out_channels=channels)
    gate = network.op(shape.gate, [_conv(network, features, second, "fc2")], "gate", [batch, channels, 1, 1])
    return network.op("Mul", [data, gate], "gated", [*static_dims(data)])  # type: ignore[list-item]


def _activated(network: _Network, data: ir.Value, activation: str, name: str) -> ir.Value:
    dims = [size or 1 for size in static_dims(data)]
    if activation == "SiLU":
        return network.op("Mul", [data, network.op("Sigmoid", [data], f"{name}_gate", dims)], name, dims)
    return network.op(activation, [data], name, dims) if activation else data


class _Network:
    """A small network in the making, its weights from one seed; everything but shapes is of one float type.

    Args:
        shape: of the input.
        precision: FP16 types the network so; every other is FP32.
    """

    def __init__(self, shape: Sequence[int], precision: Precision) -> None:
        self.random = np.random.default_rng(0)
        self._dtype = ir.DataType.FLOAT16 if precision is Precision.FP16 else ir.DataType.FLOAT
        self.input = ir.Input("input", ir.Shape(shape), ir.TensorType(self._dtype))
        self._graph = ir.Graph([self.input], [], nodes=[], opset_imports={"": _OPSET}, name="form")
        self._writer = GraphWriter(self._graph)

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        shape: Sequence[int],
        attributes: Attributes | None = None,
    ) -> ir.Value:
        return self._writer.op(
            op_type, inputs, name, attributes, dtype=self._dtype, shape=ir.Shape(shape), node_name=f"node_{name}"
        )

    def weight(self, name: str, array: NDArray[np.float32]) -> ir.Value:
        return self._writer.constant(array.astype(self._dtype.numpy()), name)

    def integers(self, name: str, *numbers: int) -> ir.Value:
        return self._writer.integers(numbers, name)

    def finish(self, output: ir.Value) -> ir.Model:
        self._writer.append()
        self._graph.outputs.append(output)
        return ir.Model(self._graph, ir_version=10)


def _size(shape: ConvShape) -> tuple[int, int]:
    if shape.height is None or shape.width is None:
        raise ValueError("the size is open")
    return shape.height, shape.width


def _output_size(shape: ConvShape) -> tuple[int, int]:
    if shape.output_size is None:
        raise ValueError("the size is open")
    return shape.output_size


def _conv_relu(network: _Network, data: ir.Value, shape: ConvShape) -> ir.Value:
    return _activated(network, _conv(network, data, shape, "conv"), "Relu", "output")


def _conv(network: _Network, data: ir.Value, shape: ConvShape, name: str) -> ir.Value:
    kernel = (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel)
    weight = network.random.standard_normal(kernel, np.float32) / float(np.prod(kernel[1:])) ** 0.5
    bias = network.random.standard_normal((shape.out_channels,), np.float32) * np.float32(0.1)
    attributes: Attributes = {
        "group": shape.groups,
        "kernel_shape": shape.kernel,
        "strides": shape.stride,
        "dilations": shape.dilation,
        "pads": shape.pads,
    }
    dims = [shape.batch, shape.out_channels, *_output_size(shape)]
    constants = [network.weight(f"{name}_weight", weight), network.weight(f"{name}_bias", bias)]
    return network.op("Conv", [data, *constants], name, dims, attributes)


def _ranges(model: ir.Model) -> CalibrationTable:
    """Ranges of a graph of convolutions as wide as those of any other: what a kernel takes does not depend on them."""
    inferred, signs = infer(model.clone()), Signs()
    candidates = Candidates(**dict.fromkeys(Candidates.model_fields, _AMAX))
    tensors = tuple(
        TensorRange(
            name=value.name or "",
            amax=_AMAX,
            minimum=0.0 if signs.nonnegative(value) else -_AMAX,
            maximum=_AMAX,
            candidates=candidates,
            histogram=HistogramSummary(values=0, zeros=0, quantiles=(0.0, 0.0, 0.0, 0.0, 0.0)),
        )
        for value in observed_values(inferred)
    )
    return CalibrationTable(
        method=Method.MINMAX, percentile=100.0, images=0, data_sha256="", model_sha256="", tensors=tensors
    )


def _quantised(
    model: ir.Model, traits: Traits, table: CalibrationTable, timed: Mapping[str, Timed] | None = None
) -> ir.Model:
    """A graph as the placement leaves it between quantised neighbours: its ends carry Q/DQ pairs in any case.

    Its weights are rounded one by one: what their values are, no kernel's time depends on.
    """
    # The graph stands for layers anywhere in a network, and a light layer is compared in INT8 as well.
    options = PlacementOptions(
        replace(traits, weights_per_output=0, weights_in_pairs=False),
        first=Ends.INT8,
        last=Ends.INT8,
        timed=timed or {},
    )
    placed, _ = place(model, table, options)
    graph = placed.graph
    inserter = Inserter(graph)
    (source,), (result,) = graph.inputs, graph.outputs
    if not any(node.op_type == "QuantizeLinear" for node in source.consumers()):
        inserter.activation(source, Grid(scale_from_amax(_AMAX)))
    graph.outputs[0] = inserter.activation(result, grid_of(result, _AMAX, None, traits))
    return placed


def radix_graph(channels: int, side: int, precision: Precision) -> ir.Model:
    """Returns a split-attention block of radix 2 between two convolutions, before any lowering.

    Args:
        channels: of the block's output.
        side: height and width of its feature map.
        precision: FP16 types the graph so; every other is FP32, for the gate's own precision does not choose its form.
    """
    network = _Network([1, channels, side, side], precision)
    op, integers = network.op, network.integers
    wide, hidden = 2 * channels, max(channels // 2, 32)

    def conv(
        data: ir.Value, name: str, kernel: tuple[int, ...], size: int, attributes: Attributes | None = None
    ) -> ir.Value:
        weight = network.random.standard_normal(kernel, np.float32) / float(np.prod(kernel[1:])) ** 0.5
        constants = [
            network.weight(f"{name}.weight", weight),
            network.weight(f"{name}.bias", np.zeros(kernel[0], np.float32)),
        ]
        return op("Conv", [data, *constants], name, [1, kernel[0], size, size], attributes)

    radix = conv(network.input, "radix", (wide, channels // 2, 3, 3), side, {"group": 2, "pads": [1, 1, 1, 1]})
    maps = op("Relu", [radix], "maps", [1, wide, side, side])
    five = [1, 2, channels, side, side]
    apart = op("Reshape", [maps, integers("shape5", *five)], "apart", five)
    total = op("ReduceSum", [apart, integers("one", 1)], "total", [1, channels, side, side], {"keepdims": 0})
    pooled = op("GlobalAveragePool", [total], "pooled", [1, channels, 1, 1])
    features = op("Relu", [conv(pooled, "fc1", (hidden, channels, 1, 1), 1)], "features", [1, hidden, 1, 1])
    logits = conv(features, "fc2", (wide, hidden, 1, 1), 1)
    branches = op("Reshape", [logits, integers("shape_b", 1, 2, channels, 1, 1)], "branches", [1, 2, channels, 1, 1])
    gate = op("Softmax", [branches], "gate", [1, 2, channels, 1, 1], {"axis": 1})
    scaled = op("Mul", [apart, gate], "scaled", five)
    mixed = op("ReduceSum", [scaled, integers("one", 1)], "mixed", [1, channels, side, side], {"keepdims": 0})
    return network.finish(conv(mixed, "output", (4 * channels, channels, 1, 1), side))
