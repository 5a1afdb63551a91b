"""Inputs and outputs as files have them: taken, or refused by their name and for what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.plain import in_float32
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import Net, images, outputs, se_net


def _output(name: str, element: int = TensorProto.FLOAT) -> Callable[[onnx.ModelProto], None]:
    def add(file: onnx.ModelProto) -> None:
        file.graph.output.append(helper.make_tensor_value_info(name, element, None))

    return add


def _number(file: onnx.ModelProto) -> None:
    file.graph.node.append(helper.make_node("ReduceMean", ["y"], ["mean"], "mean", keepdims=0))
    _output("mean")(file)


def _columns(file: onnx.ModelProto) -> None:
    file.graph.node.append(helper.make_node("Transpose", ["y"], ["columns"], "columns"))
    file.graph.output[0].name = "columns"


def _sequence(file: onnx.ModelProto) -> None:
    file.graph.input.append(helper.make_tensor_sequence_value_info("clips", TensorProto.FLOAT, None))


def _text(file: onnx.ModelProto) -> None:
    file.graph.input.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["N"]))


def _untyped(file: onnx.ModelProto) -> None:
    """Found by changing fields: types are inferred before the checker sees that a node reads nothing."""
    file.graph.output[0].ClearField("type")
    del file.graph.node[1].input[:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_untyped, "is not a valid ONNX graph"),
        (_output("head"), "output head is a constant: leave that output out"),
        (_output("x"), "output x is an input as it came: leave that output out"),
        (_output("y"), "output y is named twice: name it once"),
        (_output("nowhere"), "output nowhere is made by no node"),
        (_sequence, "clips is sequence: inputs"),
        (_text, "label is string: inputs"),
    ],
)
def test_what_cannot_be_an_end_is_named(spoil: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path) -> None:
    file = se_net()
    spoil(file)
    with pytest.raises(InputError, match=message):
        read_onnx(save(file, tmp_path))


# Of 4 samples the columns are 4 rows, which are not theirs.
@pytest.mark.parametrize("spoil", [_number, _columns])
def test_an_output_without_a_row_for_each_image_leaves_one_image(
    spoil: Callable[[onnx.ModelProto], None], tmp_path: Path
) -> None:
    file, said = se_net(), []  # type: ignore[var-annotated]
    spoil(file)
    graph = read_onnx(save(file, tmp_path), remark=said.append).graph
    assert (graph.inputs[0].shape or ())[0] == 1 and "computes only batches of 1" in said[0]


def test_an_output_without_a_type_has_the_one_it_has(tmp_path: Path) -> None:
    file = se_net()
    file.graph.output[0].ClearField("type")
    (found,) = read_onnx(save(file, tmp_path)).graph.outputs
    assert found.dtype is ir.DataType.FLOAT


@pytest.mark.parametrize("element", [TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_ends_and_a_middle_of_another_float_are_compiled_in_float32(element: int, tmp_path: Path) -> None:
    net = Net()
    value = net.op("Cast", [net.op("Cast", ["x"], "single", to=TensorProto.FLOAT)], "other", to=element)
    value = net.op("Cast", [net.op("Tanh", [value], "tanh")], "narrow", to=TensorProto.FLOAT)
    flat = net.op("Flatten", [net.op("GlobalAveragePool", [value], "pool")], "flat")
    net.op("Gemm", [flat, net.weight("head", 4, 3)], "logits", transB=1)
    net.op("Cast", ["logits"], "y", to=element)
    file = net.model(dtype=element)
    file.graph.output[0].type.tensor_type.elem_type = element
    remarks: list[str] = []
    path = save(file, tmp_path)
    read = read_onnx(path, None, remarks.append)
    plain = in_float32(read, path, remarks.append)
    assert "ends (x, y); the engine's are float32" in remarks[0] and "computes in" in remarks[1]
    types = {value.dtype for node in plain.graph for value in node.outputs}
    assert types == {ir.DataType.FLOAT}
    given = images().astype(helper.tensor_dtype_to_np_dtype(element))
    expected = outputs(file, given)
    np.testing.assert_allclose(outputs(ir.to_proto(plain), images()), expected, rtol=0.01, atol=0.002)
    # What everything is held against still rounds, or does not, as the file does.
    tight = 0.002 if element == TensorProto.FLOAT16 else 1e-6
    np.testing.assert_allclose(outputs(ir.to_proto(read), images()), expected, rtol=tight, atol=tight)
