"""Small graphs for the tests of this folder, written by hand so that every tensor has a name to assert on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from radixrt.export.graph.session import GraphSession


class Net:
    """Builds a float32 graph node by node; weights come from a seed."""

    def __init__(self, seed: int = 0, size: int = 16, channels: int = 3, batch: int | str = "batch") -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inits: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, channels, size, size])
        self.batch = batch
        self.channels = {"input": channels}

    def const(self, name: str, array: np.ndarray) -> str:
        self.inits.append(numpy_helper.from_array(array, name))
        return name

    def op(self, op_type: str, inputs: Sequence[str], out: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, list(inputs), [out], name=f"node_{out}", **attributes))
        self.channels[out] = self.channels.get(inputs[0], 0)
        return out

    def conv(
        self, x: str, out: str, channels: int, kernel: int = 3, groups: int = 1, stride: int = 1, bias: bool = True
    ) -> str:
        width = self.channels[x] // groups
        weight = self.rng.normal(size=(channels, width, kernel, kernel)) / np.sqrt(width * kernel * kernel / 2)
        inputs = [x, self.const(f"{out}.weight", weight.astype(np.float32))]
        if bias:
            inputs.append(self.const(f"{out}.bias", self.rng.normal(size=channels).astype(np.float32) * 0.1))
        self.op(
            "Conv", inputs, out, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, strides=[stride] * 2, group=groups
        )
        self.channels[out] = channels
        return out

    def conv_relu(self, x: str, out: str, channels: int, **more: int) -> str:
        return self.op("Relu", [self.conv(x, f"{out}_conv", channels, **more)], out)  # type: ignore[arg-type]

    def head(self, x: str, classes: int = 4) -> str:
        pooled = self.op("Flatten", [self.op("GlobalAveragePool", [x], "pooled")], "flat", axis=1)
        weight = self.rng.normal(size=(classes, self.channels[x])) / np.sqrt(self.channels[x])
        self.const("fc.weight", weight.astype(np.float32))
        self.const("fc.bias", np.zeros(classes, np.float32))
        return self.op("Gemm", [pooled, "fc.weight", "fc.bias"], "logits", transB=1)

    def build(self, output: str = "logits", shape: Sequence[int] | None = None) -> ir.Model:
        dims = [self.batch, *(shape or [None])]
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)
        graph = helper.make_graph(self.nodes, "net", [self.input], [value], self.inits)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def stem(net: Net, channels: int = 16) -> str:
    return net.conv_relu("input", "stem", channels)


def gate(net: Net, x: str, channels: int, out: str, hidden: int = 8, act: str = "Sigmoid") -> str:
    """GAP, two 1x1 convolutions and a sigmoid: the squeeze and excitation of what has ``channels`` channels."""
    squeezed = net.op("GlobalAveragePool", [x], f"{out}_gap")
    first = net.conv_relu(squeezed, f"{out}_fc1", hidden, kernel=1)
    second = net.conv(first, f"{out}_fc2", channels, kernel=1)
    return net.op(act, [second], out)


def plain(size: int = 16) -> ir.Model:
    """Stem, one residual block with an identity, pooling, head."""
    net = Net(size=size)
    x = stem(net)
    y = net.conv_relu(x, "a", 16)
    y = net.conv(y, "b", 16)
    z = net.op("Relu", [net.op("Add", [y, x], "sum")], "out")
    z = net.op("MaxPool", [z], "pool", kernel_shape=[2, 2], strides=[2, 2])
    z = net.conv_relu(z, "c", 16)
    net.head(z)
    return net.build(shape=[4])


def se_block() -> ir.Model:
    """Stem, an SE residual block, a convolution behind it, head."""
    net = Net()
    x = stem(net)
    u = net.conv(net.conv_relu(x, "a", 16), "u", 16)
    v = net.op("Mul", [u, gate(net, u, 16, "gate")], "v")
    y = net.op("Relu", [net.op("Add", [v, x], "sum")], "out")
    net.head(net.conv_relu(y, "c", 16))
    return net.build(shape=[4])


def split_block() -> ir.Model:
    """Stem, a split-attention block of radix 2 in the lowered form ``U1 + g (U0 - U1)``, head."""
    net = Net()
    x = stem(net)
    u = net.conv_relu(x, "u", 32)
    for i, (start, stop) in enumerate(((0, 16), (16, 32))):
        bounds = [net.const(f"{k}{i}", np.array([v], np.int64)) for k, v in (("start", start), ("stop", stop))]
        axis = net.const(f"axis{i}", np.array([1], np.int64))
        net.op("Slice", [u, *bounds, axis], f"u{i}")
        net.channels[f"u{i}"] = 16
    g = gate(net, u, 16, "gate")
    difference = net.op("Sub", ["u0", "u1"], "difference")
    v = net.op("Add", ["u1", net.op("Mul", [difference, g], "product")], "v")
    y = net.conv(v, "c3", 16, kernel=1)
    net.head(net.op("Relu", [net.op("Add", [y, x], "sum")], "out"))
    return net.build(shape=[4])


def images(count: int, size: int = 16, seed: int = 1, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, channels, size, size)).astype(np.float32)


def logits(model: ir.Model, images: np.ndarray, *, optimize: bool = True) -> np.ndarray:
    """The first output of a graph for any number of images, shape (N, classes)."""
    return next(iter(GraphSession(model, optimize=optimize).over({"input": images}).values()))
