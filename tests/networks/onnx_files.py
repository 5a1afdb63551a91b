"""Small SE networks as files: in any opset, in FP16, quantised, with a batch that is baked in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 16


class Net:
    """Writes an ONNX file node by node; images are 3 x 16 x 16 and called ``x``, the logits (4) ``y``."""

    def __init__(self, seed: int = 0) -> None:
        self.random, self.nodes, self.weights = np.random.default_rng(seed), [], []  # type: ignore[var-annotated]

    def constant(self, name: str, array: object, dtype: object = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array).astype(dtype), name))  # type: ignore[call-overload]
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, self.random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5)

    def op(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def stem(self) -> str:
        return self.op("Relu", [self.op("Conv", ["x", self.weight("w0", CHANNELS, 3, 3, 3)], "c0", pads=[1] * 4)], "r0")

    def gate(self, value: str, name: str = "") -> str:
        """The argument of a sigmoid: pool, FC, ReLU, FC."""
        pooled = self.op("GlobalAveragePool", [value], f"pool{name}")
        first = self.op("Conv", [pooled, self.weight(f"f1{name}", 8, CHANNELS, 1, 1)], f"fc1{name}")
        return self.op(
            "Conv", [self.op("Relu", [first], f"fr{name}"), self.weight(f"f2{name}", CHANNELS, 8, 1, 1)], f"fc2{name}"
        )

    def head(self, value: str) -> str:
        flat = self.op("Flatten", [self.op("GlobalAveragePool", [value], "gp")], "flat")
        return self.op(
            "Gemm", [flat, self.weight("head", 4, CHANNELS), self.constant("bias", np.zeros(4))], "y", transB=1
        )

    def model(self, opset: int = 18, batch: int | str = "N", dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", dtype, [batch, 3, 16, 16])],
            [helper.make_tensor_value_info("y", dtype, [batch, 4])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def se_net(opset: int = 18, batch: int | str = "N") -> onnx.ModelProto:
    """A convolution, an SE block, a convolution and a head, by operators that every opset from 7 on has."""
    net = Net()
    value = net.stem()
    value = net.op("Mul", [value, net.op("Sigmoid", [net.gate(value)], "gate")], "excited")
    value = net.op(
        "Relu", [net.op("Conv", [value, net.weight("w1", CHANNELS, CHANNELS, 3, 3)], "c1", pads=[1] * 4)], "r1"
    )
    net.head(value)
    return net.model(opset, batch)


def in_half(model: onnx.ModelProto, *, ends: bool) -> onnx.ModelProto:
    """The network in FP16; with float32 ``ends``, a Cast behind the image and one before the logits."""
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    if not ends:
        for value in (*half.graph.input, *half.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        return half
    for node in half.graph.node:
        node.input[:] = ["x_half" if name == "x" else name for name in node.input]
        node.output[:] = ["y_half" if name == "y" else name for name in node.output]
    half.graph.node.insert(0, helper.make_node("Cast", ["x"], ["x_half"], "in", to=TensorProto.FLOAT16))
    half.graph.node.append(helper.make_node("Cast", ["y_half"], ["y"], "out", to=TensorProto.FLOAT))
    return half


def quantised(model: onnx.ModelProto, folder: Path, *, form: str = "QDQ", **choices: object) -> onnx.ModelProto:
    """The network as ONNX Runtime's quantiser writes it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images(4)[:, None])

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"x": image}

    source, target = folder / "float.onnx", folder / "quantised.onnx"
    onnx.save(model, source)
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True, **choices}
    quantize_static(source, target, Images(), quant_format=QuantFormat[form], **options)
    return onnx.load(target)


def operator_form() -> onnx.ModelProto:
    """A small network in the operator form, of ONNX's own operators and of ONNX Runtime's."""
    net = Net()
    scale, zero = net.constant("scale", 0.05), net.constant("zero", 128, np.uint8)
    steps = net.constant("steps", np.full(CHANNELS, 0.01))
    weight = net.constant("w0", net.random.integers(-127, 128, (CHANNELS, 3, 3, 3)), np.int8)
    own = [weight, steps, net.constant("zeros", np.zeros(CHANNELS), np.int8)]
    bias = net.constant("b0", net.random.integers(-99, 99, CHANNELS), np.int32)
    pair = [scale, zero]
    value = net.op("QuantizeLinear", ["x", *pair], "x_quantized")
    value = net.op("QLinearConv", [value, *pair, *own, *pair, bias], "c0_quantized", pads=[1] * 4)
    contrib = {"domain": "com.microsoft"}
    value = net.op("QLinearAdd", [value, *pair, value, *pair, *pair], "a0_quantized", **contrib)
    value = net.op("QLinearGlobalAveragePool", [value, *pair, *pair], "gp_quantized", channels_last=0, **contrib)
    flat = net.op("Flatten", [net.op("DequantizeLinear", [value, *pair], "gp")], "flat")
    net.op("Gemm", [flat, net.weight("head", 4, CHANNELS), net.constant("bias", np.zeros(4))], "y", transB=1)
    model = net.model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 16, 16)).astype(np.float32)


def outputs(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """What the runtime makes of a file."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: batch})
    return np.asarray(found)
