"""The precision that was asked for is what is delivered: no FP16 and no INT8 stays in what is compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.plain import demand_float, in_float32
from radixrt.export.reader.simplify import simplify
from radixrt.export.spec import Precision
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import Net, images, in_half, outputs, quantised, se_net


def read(file: onnx.ModelProto, folder: Path) -> tuple[ir.Model, ir.Model, list[str]]:
    """The graph of a file, what is compiled, and the remarks."""
    remarks: list[str] = []
    path = save(file, folder)
    graph = read_onnx(path, None, remarks.append)
    return graph, simplify(in_float32(graph, path, remarks.append)), remarks


def types(model: ir.Model) -> set[ir.DataType | None]:
    return {value.dtype for node in model.graph for value in node.outputs}


@pytest.mark.parametrize("ends", [True, False])
def test_an_fp16_file_is_compiled_in_float32(ends: bool, tmp_path: Path) -> None:
    file = in_half(se_net(), ends=ends)
    graph, plain, remarks = read(file, tmp_path)
    assert types(plain) == {ir.DataType.FLOAT} and ir.DataType.FLOAT16 in types(graph)
    assert graph.graph.inputs[0].dtype is graph.graph.outputs[0].dtype is ir.DataType.FLOAT
    assert ["float16 ends (x, y)" in text for text in remarks] == ([False] if ends else [True, False])
    assert "computes in FP16" in remarks[-1]
    given = images() if ends else images().astype(np.float16)
    expected = outputs(file, given).astype(np.float32)
    for model in (graph, plain):
        error = np.abs(outputs(ir.to_proto(model), images()) - expected).max()
        assert error <= 0.01 * np.abs(expected).max()


def test_fp16_weights_behind_casts_are_no_arithmetic(tmp_path: Path) -> None:
    file = se_net()
    for tensor in file.graph.initializer:
        half = onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}_half"
        )
        cast = onnx.helper.make_node("Cast", [half.name], [tensor.name], to=onnx.TensorProto.FLOAT)
        file.graph.node.insert(0, cast)
        tensor.CopyFrom(half)
    _, plain, remarks = read(file, tmp_path)
    assert types(plain) == {ir.DataType.FLOAT} and not remarks
    np.testing.assert_allclose(outputs(ir.to_proto(plain), images()), outputs(file, images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
def test_the_pairs_of_a_quantised_file_are_taken_off(opset: int, activations: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    file = quantised(se_net(opset), tmp_path, activation_type=QuantType[activations])
    assert "QuantizeLinear" in {node.op_type for node in file.graph.node}
    _, plain, remarks = read(file, tmp_path)
    assert types(plain) == {ir.DataType.FLOAT}
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in plain.graph}
    (remark,) = remarks
    assert "is quantised already" in remark
    expected = outputs(file, images())
    # What the quantiser left out because the pair did it, a ReLU, is there again.
    assert np.abs(outputs(ir.to_proto(plain), images()) - expected).max() <= 0.05 * np.abs(expected).max()


def test_a_pool_between_the_halves_of_a_pair_stays(tmp_path: Path) -> None:
    net = Net()
    scale, zero = net.constant("scale", 0.02), net.constant("zero", 0, np.int8)
    integers = net.op("QuantizeLinear", [net.stem(), scale, zero], "q")
    pooled = net.op("MaxPool", [integers], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    net.head(net.op("DequantizeLinear", [pooled, scale, zero], "d"))
    _, plain, _ = read(net.model(), tmp_path)
    assert types(plain) == {ir.DataType.FLOAT} and "MaxPool" in {node.op_type for node in plain.graph}


def test_halves_that_differ_are_refused(tmp_path: Path) -> None:
    net = Net()
    zero = net.constant("zero", 0, np.int8)
    integers = net.op("QuantizeLinear", [net.stem(), net.constant("scale", 0.02), zero], "q")
    net.head(net.op("DequantizeLinear", [integers, net.constant("other", 0.03), zero], "d"))
    with pytest.raises(InputError, match="is quantised already: DequantizeLinear 'd_node' reads integers of another"):
        read(net.model(), tmp_path)


def test_what_has_no_pairs_has_none_to_keep(tmp_path: Path) -> None:
    path, remarks = save(se_net(), tmp_path), list[str]()
    with pytest.raises(InputError, match="is not quantised, so it has no pairs to keep"):
        in_float32(read_onnx(path), path, remarks.append, keep_pairs=True)
    path = save(quantised(se_net(), tmp_path), tmp_path)
    in_float32(read_onnx(path), path, remarks.append, keep_pairs=True)
    assert ["Q/DQ pairs, with their own scales" in text for text in remarks] == [True]


def test_a_graph_used_as_it_stands_is_not_narrower_than_asked(tmp_path: Path) -> None:
    path = save(in_half(se_net(), ends=True), tmp_path)
    half = read_onnx(path)
    demand_float(half, path, Precision.FP16)
    with pytest.raises(InputError, match="holds FP16 tensors: `radixrt rewrite"):
        demand_float(half, path)
    pairs = read_onnx(save(quantised(se_net(), tmp_path), tmp_path))
    demand_float(pairs, path, Precision.INT8)
    with pytest.raises(InputError, match="is quantised already"):
        demand_float(pairs, path, Precision.FP16)


@pytest.mark.parametrize(("activations", "weights"), [("QInt16", "QInt8"), ("QUInt16", "QInt16"), ("QUInt8", "QInt4")])
def test_pairs_of_other_widths_are_taken_off(activations: str, weights: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    kinds = {"activation_type": QuantType[activations], "weight_type": QuantType[weights]}
    file = quantised(se_net(21), tmp_path, **kinds, per_channel=weights != "QInt4")
    _, plain, remarks = read(file, tmp_path)
    assert types(plain) == {ir.DataType.FLOAT} and "is quantised already" in remarks[0]
    expected = outputs(file, images())
    assert np.abs(outputs(ir.to_proto(plain), images()) - expected).max() <= 0.05 * np.abs(expected).max()
