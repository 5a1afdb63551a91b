"""A file in the operator form is read as pairs, and computes what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import CHANNELS, Net, images, operator_form, outputs, quantised, se_net


def many_operators() -> Net:
    """Each operator that ONNX Runtime's quantiser has a quantised one for, as far as a classifier has them."""
    net = Net()
    value = net.op("LeakyRelu", [net.stem()], "leaky", alpha=0.1)
    value = net.op("AveragePool", [value], "average", kernel_shape=[2, 2], strides=[2, 2])
    value = net.op("MaxPool", [value], "largest", kernel_shape=[2, 2], strides=[1, 1])
    value = net.op("Mul", [value, net.op("Sigmoid", [net.gate(value)], "gate")], "excited")
    twice = net.op("Concat", [value, value], "twice", axis=1)
    value = net.op("Conv", [twice, net.weight("w1", CHANNELS, 2 * CHANNELS, 1, 1)], "c1")
    value = net.op("Add", [value, net.op("Relu", [value], "r1")], "sum")
    flat = net.op("Flatten", [net.op("GlobalAveragePool", [value], "gp")], "flat")
    flat = net.op("MatMul", [flat, net.weight("m", CHANNELS, 8)], "product")
    head = net.op("Gemm", [flat, net.weight("head", 4, 8), net.constant("bias", np.ones(4))], "logits", transB=1)
    net.op("Softmax", [head], "y", axis=1)
    return net


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_it_computes_what_the_file_does(opset: int, tmp_path: Path) -> None:
    file = quantised(many_operators().model(opset), tmp_path, form="QOperator")
    kinds = {node.op_type for node in file.graph.node}
    assert {"QLinearConv", "QLinearAdd", "QLinearConcat", "QGemm", "QLinearMatMul", "QLinearSoftmax"} <= kinds
    remarks: list[str] = []
    graph = read_onnx(save(file, tmp_path), None, remarks.append)
    assert all(
        not node.domain and not node.op_type.startswith("Q") for node in graph.graph if "Quantize" not in node.op_type
    )
    assert "quantised operators are read as Q/DQ pairs" in remarks[0]
    expected = outputs(file, images())
    # A pair rounds where the operator's own arithmetic rounds, to the same 255 levels.
    assert np.abs(outputs(ir.to_proto(graph), images()) - expected).max() <= 2 / 255


@pytest.mark.parametrize(
    ("opset", "activations", "weights"),
    [(11, "QUInt8", "QInt8"), (13, "QUInt16", "QInt8"), (18, "QUInt8", "QInt4"), (21, "QInt16", "QInt4")],
)
def test_the_pairs_of_the_runtimes_own_domain_are_pairs(
    opset: int, activations: str, weights: str, tmp_path: Path
) -> None:
    """It has 16 and 4 bits, and a scale per channel, at opsets whose standard pairs lack them."""
    from onnxruntime.quantization import QuantType

    kinds = {"activation_type": QuantType[activations], "weight_type": QuantType[weights]}
    extra = {"UseQDQContribOps": True}
    file = quantised(se_net(opset), tmp_path, **kinds, per_channel=weights != "QInt4", extra_options=extra)
    # The quantiser lifts some to opset 21, which the domain's own pairs do not need.
    next(entry for entry in file.opset_import if not entry.domain).version = opset
    assert any(node.domain == "com.microsoft" for node in file.graph.node)
    graph = read_onnx(save(file, tmp_path))
    assert not any(node.domain for node in graph.graph) and graph.opset_imports[""] == 21
    expected = outputs(file, images())
    assert np.abs(outputs(ir.to_proto(graph), images()) - expected).max() <= 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("keep", range(9))
def test_an_operator_without_all_its_inputs_is_refused(keep: int, tmp_path: Path) -> None:
    file = operator_form()
    node = next(node for node in file.graph.node if node.op_type == "QLinearConv")
    del node.input[keep:]
    if keep == 8:  # the bias, which it need not have
        read_onnx(save(file, tmp_path))
        return
    with pytest.raises(InputError, match=r"no QLinearConv as ONNX|not a valid ONNX graph"):
        read_onnx(save(file, tmp_path))


def test_dynamic_quantisation_is_refused_by_its_name(tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    source, target = save(se_net(), tmp_path), tmp_path / "dynamic.onnx"
    quantize_dynamic(source, target)
    assert any(node.op_type == "ConvInteger" for node in onnx.load(target).graph.node)
    with pytest.raises(InputError, match=r"is quantised already, .* chooses its scales as it runs"):
        read_onnx(target)
