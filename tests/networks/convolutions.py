"""Tiny graphs around one convolution; weights are whole numbers, so that equal in value means equal to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from radixrt.export.passes.conv_shape import ConvShape

SCOPES = "pkg.torch.onnx.name_scopes"


def whole(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.integers(-4, 5, shape).astype(np.float32)


def constant(name: str, array: NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


def activation(name: str, shape: list[int | str | None]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def model_of(inputs: list[ir.Value], outputs: list[ir.Value], nodes: list[ir.Node]) -> ir.Model:
    weights = {v for n in nodes for v in n.inputs if v is not None and v.const_value is not None}
    ordered = sorted(weights, key=lambda v: str(v.name))
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=ordered, opset_imports={"": 18}, name="net")
    return ir.Model(graph, ir_version=10)


def conv_model(shape: ConvShape, *, bias: bool = True, seed: int = 0, dynamic: bool = False) -> ir.Model:
    rng = np.random.default_rng(seed)
    size = shape.output_size
    assert size is not None
    batch: int | str = "batch" if dynamic else shape.batch
    x = activation("input", [batch, shape.in_channels, shape.height, shape.width])
    y = activation("logits", [batch, shape.out_channels, *size])
    inputs = [x, constant("w", whole(rng, shape.out_channels, shape.in_channels // shape.groups, *shape.kernel))]
    if bias:
        inputs.append(constant("b", whole(rng, shape.out_channels)))
    attributes = [
        ir.AttrInt64("group", shape.groups),
        ir.AttrInt64s("strides", shape.stride),
        ir.AttrInt64s("dilations", shape.dilation),
        ir.AttrInt64s("pads", shape.pads),
    ]
    scopes = {SCOPES: "['', 'layer1', 'layer1.0', 'layer1.0.conv2', 'conv2d']"}
    node = ir.Node("", "Conv", inputs, attributes, outputs=[y], name="node_conv", metadata_props=scopes)
    return model_of([x], [y], [node])


def run(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def clone(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))
