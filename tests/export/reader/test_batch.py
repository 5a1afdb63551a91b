"""A batch that a file calls free is tried: what is baked in is compiled as what it is, and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx, with_batch
from radixrt.export.reader.sandbox import read_foreign
from radixrt.export.spec import BatchSpec, FileChoice
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import CHANNELS, Net, images, outputs, se_net


def baked(batch: int) -> Net:
    """An SE block by Gemm behind a Reshape to a batch of its own."""
    net = Net()
    value = net.stem()
    pooled = net.op("GlobalAveragePool", [value], "pool")
    flat = net.op("Reshape", [pooled, net.constant("to", [batch, CHANNELS], np.int64)], "view")
    gate = net.op("Relu", [net.op("Gemm", [flat, net.weight("f1", CHANNELS, 8)], "fc1")], "fr")
    gate = net.op("Sigmoid", [net.op("Gemm", [gate, net.weight("f2", 8, CHANNELS)], "fc2")], "gate")
    gate = net.op("Reshape", [gate, net.constant("back", [batch, CHANNELS, 1, 1], np.int64)], "view2")
    net.head(net.op("Mul", [value, gate], "excited"))
    return net


@pytest.mark.parametrize("batch", [1, 4])
def test_a_baked_batch_is_compiled_as_what_it_is(batch: int, tmp_path: Path) -> None:
    file = baked(batch).model()
    foreign = read_foreign(save(file, tmp_path))
    assert str(foreign.simplified.graph.inputs[0].shape) == f"[{batch},3,16,16]"
    (remark,) = foreign.remarks
    assert f"its batch is free but computes only batches of {batch}" in remark
    np.testing.assert_allclose(
        outputs(ir.to_proto(foreign.simplified), images(batch)), outputs(file, images(batch)), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(InputError, match=f"takes a batch of {batch}, not 1..8"):
        with_batch(foreign.graph, BatchSpec(1, 8))


def test_a_batch_that_a_constant_is_spread_over_is_its_own(tmp_path: Path) -> None:
    net = Net()
    spread = net.constant("spread", np.ones((4, CHANNELS, 1, 1)))
    net.head(net.op("Mul", [net.stem(), spread], "scaled"))
    remarks: list[str] = []
    model = read_onnx(save(net.model(), tmp_path), None, remarks.append)
    assert str(model.graph.inputs[0].shape) == "[4,3,16,16]" and len(remarks) == 1


def test_a_batch_that_inference_already_contradicts_is_one(tmp_path: Path) -> None:
    net = baked(1)
    net.nodes.append(net.nodes.pop())
    file = net.model(batch=1)
    file.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    remarks: list[str] = []
    assert str(read_onnx(save(file, tmp_path), None, remarks.append).graph.outputs[0].shape) == "[1,4]"
    assert len(remarks) == 1


def test_images_that_change_each_other_are_no_free_batch(tmp_path: Path) -> None:
    net = Net()
    mean = net.op("ReduceMean", [net.stem(), net.constant("axes", [0], np.int64)], "mean", keepdims=1)
    net.head(net.op("Sub", ["r0", mean], "centred"))
    remarks: list[str] = []
    model = read_onnx(save(net.model(), tmp_path), None, remarks.append)
    assert str(model.graph.inputs[0].shape) == "[1,3,16,16]" and len(remarks) == 1


def test_a_free_batch_stays_free(tmp_path: Path) -> None:
    remarks: list[str] = []
    model = read_onnx(save(se_net(), tmp_path), None, remarks.append)
    assert str(model.graph.inputs[0].shape) == "[batch,3,16,16]" and not remarks


@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_weights_among_the_inputs_of_an_old_file_are_weights(opset: int, tmp_path: Path) -> None:
    file = se_net(opset)
    file.ir_version = 3  # which wants them there
    for tensor in file.graph.initializer:
        file.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = read_onnx(save(file, tmp_path))
    assert [value.name for value in model.graph.inputs] == ["x"]
    np.testing.assert_allclose(outputs(ir.to_proto(model), images()), outputs(file, images()), rtol=1e-5, atol=1e-6)


def test_what_the_runtime_has_no_kernel_for_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = se_net()
    for tensor in file.graph.initializer:
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    for node in file.graph.node:
        node.input[:] = [{"x": "x_wide"}.get(name, name) for name in node.input]
        node.output[:] = [{"y": "y_wide"}.get(name, name) for name in node.output]
    file.graph.node.insert(0, onnx.helper.make_node("Cast", ["x"], ["x_wide"], "in", to=onnx.TensorProto.DOUBLE))
    file.graph.node.append(onnx.helper.make_node("Cast", ["y_wide"], ["y"], "out", to=onnx.TensorProto.FLOAT))
    with pytest.raises(InputError, match=r"cannot be run by ONNX Runtime .*: export it in float32"):
        read_onnx(save(file, tmp_path))


# torch.onnx.export with the input's axis free and not the output's writes the traced batch there.
@pytest.mark.parametrize("opaque", [True, False])
def test_what_a_file_says_of_its_outputs_shape_is_not_believed(opaque: bool, tmp_path: Path) -> None:
    file = se_net()
    dims = file.graph.output[0].type.tensor_type.shape.dim
    dims[0].dim_value = 1
    read = read_onnx(save(file, tmp_path), FileChoice(opaque=opaque))
    assert str(read.graph.outputs[0].shape) == f"[batch,{dims[1].dim_value}]"
