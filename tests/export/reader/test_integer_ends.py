"""Files whose ends are integers: an image's bytes stay bytes, quantised ends become the numbers that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from radixrt.calibration.data.pixels import preprocess_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.errors import InputError
from radixrt.export.reader.sandbox import read_foreign
from radixrt.export.source.load import load
from radixrt.export.source.names import resolve
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import outputs, se_net

STEP, ZERO = np.float32(1 / 64), 116


def _behind(nodes: list[onnx.NodeProto], dtype: type, *, out: bool = False, opset: int = 13) -> onnx.ModelProto:
    """The SE network behind nodes that make its image of integers; ``out``: its logits are quantised, too."""
    file = se_net(opset)
    zero = numpy_helper.from_array(np.asarray(ZERO if dtype is np.uint8 else ZERO - 128, dtype), "zero")
    file.graph.initializer.extend([numpy_helper.from_array(STEP, "step"), zero])
    for node in reversed(nodes):
        file.graph.node.insert(0, node)
    file.graph.input[0].name = "bytes"
    ends = [file.graph.input[0]]
    if out:
        file.graph.node[-1].output[0] = "logits"
        file.graph.node.append(helper.make_node("QuantizeLinear", ["logits", "step", "zero"], ["y"], "out"))
        ends.append(file.graph.output[0])
    for value in ends:
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return file


_DEQUANTIZED = [helper.make_node("DequantizeLinear", ["bytes", "step", "zero"], ["x"], "in")]
_SPELT = [
    helper.make_node("Cast", ["bytes"], ["floats"], "cast", to=TensorProto.FLOAT),
    helper.make_node("Mul", ["floats", "step"], ["x"], "scaled"),
]
_CARRIED = [
    helper.make_node("Identity", ["bytes"], ["same"], "identity"),
    helper.make_node("DequantizeLinear", ["same", "step", "zero"], ["x"], "in"),
]


@pytest.mark.parametrize("nodes", [_SPELT, _DEQUANTIZED, _CARRIED], ids=["cast", "pair", "carried"])
def test_an_image_of_bytes_is_compiled_with_its_bytes(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    file = _behind(nodes, np.uint8)
    simple = read_foreign(save(file, tmp_path)).simplified
    assert simple.graph.inputs[0].dtype is ir.DataType.UINT8
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in simple.graph}
    given = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    np.testing.assert_allclose(outputs(ir.to_proto(simple), given), outputs(file, given), rtol=1e-4, atol=1e-5)


def test_pixels_are_fed_as_they_are_and_nobody_normalises_them_twice(tmp_path: Path) -> None:
    preprocess = Preprocess.from_config(load(resolve(str(save(_behind(_SPELT, np.uint8), tmp_path)))).data_config)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    preprocess = preprocess.with_overrides(crop_pct=1.0)
    np.testing.assert_array_equal(preprocess_image(Image.fromarray(pixels), preprocess), pixels.transpose(2, 0, 1))
    with pytest.raises(InputError, match="takes pixels as bytes, 0 to 255, and normalises them itself: no mean"):
        preprocess.with_overrides(mean="0.5,0.5,0.5")


@pytest.mark.parametrize(("dtype", "opset"), [(np.int8, 13), (np.int16, 21), (np.uint8, 18)])
def test_quantised_ends_become_the_numbers_that_they_stand_for(dtype: type, opset: int, tmp_path: Path) -> None:
    file = _behind(_DEQUANTIZED, dtype, out=True, opset=opset)
    foreign = read_foreign(save(file, tmp_path))
    given = np.random.default_rng(0).integers(0, 128, (2, 3, 16, 16)).astype(dtype)
    zero = np.float32(ZERO if dtype is np.uint8 else ZERO - 128)
    fed = given if dtype is np.uint8 else (given - zero) * STEP
    expected = (outputs(file, given) - zero) * STEP
    ours = outputs(ir.to_proto(foreign.simplified), fed)
    assert ours.dtype == np.float32 and np.abs(ours - expected).max() <= STEP
    np.testing.assert_allclose(outputs(ir.to_proto(foreign.graph), fed), expected, atol=1e-6)
    assert any("has quantised ends" in remark and "y " in remark for remark in foreign.remarks)
