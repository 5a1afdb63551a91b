"""A file from an NHWC framework: its images are fed as it takes them, its blocks are found behind its transposes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from PIL import Image

from radixrt.calibration.data.pixels import preprocess_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.reader.sandbox import read_foreign
from radixrt.export.source.load import load, resolve
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import CHANNELS, Net, images, outputs


def nhwc_net(keepdims: int = 0, opset: int = 18) -> onnx.ModelProto:
    """Convolutions between transposes, an SE block pooled and multiplied over (N, H, W, C), and a residual."""
    net = Net()

    def conv(value: str, weight: str, name: str) -> str:
        inner = net.op("Transpose", [value], f"{name}_nchw", perm=[0, 3, 1, 2])
        return net.op(
            "Transpose", [net.op("Conv", [inner, weight], name, pads=[1] * 4)], f"{name}_nhwc", perm=[0, 2, 3, 1]
        )

    stem = net.op("Add", [conv("x", net.weight("w0", CHANNELS, 3, 3, 3), "c0"), net.weight("b0", CHANNELS)], "biased")
    stem = net.op("Relu", [stem], "r0")
    value = conv(stem, net.weight("w1", CHANNELS, CHANNELS, 3, 3), "c1")
    axes = [net.constant("axes", [1, 2], np.int64)]
    gate = net.op("ReduceMean", [value, *axes], "pool", keepdims=keepdims)
    gate = net.op("Relu", [net.op("MatMul", [gate, net.weight("f1", CHANNELS, 8)], "fc1")], "fr")
    gate = net.op("Sigmoid", [net.op("MatMul", [gate, net.weight("f2", 8, CHANNELS)], "fc2")], "gate")
    if not keepdims:
        gate = net.op("Reshape", [gate, net.constant("to", [-1, 1, 1, CHANNELS], np.int64)], "spread")
    value = net.op("Add", [stem, net.op("Mul", [value, gate], "excited")], "residual")
    value = conv(value, net.weight("w2", CHANNELS, CHANNELS, 3, 3), "c2")
    flat = net.op("ReduceMean", [value, *axes], "flat", keepdims=0)
    net.op("Gemm", [flat, net.weight("head", CHANNELS, 4)], "y")
    model = net.model(opset)
    for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], (16, 16, 3), strict=True):
        dim.dim_value = side
    return model


@pytest.mark.parametrize("keepdims", [0, 1])
def test_the_transposes_of_an_nhwc_file_cancel(keepdims: int, tmp_path: Path) -> None:
    file = nhwc_net(keepdims)
    graph = read_foreign(save(file, tmp_path)).simplified
    assert str(graph.graph.inputs[0].shape) == "[batch,16,16,3]"
    left = [node.outputs[0].shape for node in graph.graph if node.op_type == "Transpose"]
    # Of the image, and where the mean keeps its axes, of its one pixel, for the MatMul.
    assert [str(shape) for shape in left] == ["[batch,3,16,16]", "[batch,1,1,16]"][: 1 + keepdims]
    model, report = rewrite(graph, RewriteOptions())
    assert len(report.attention_blocks) == 1 and not report.refused
    given = np.ascontiguousarray(images().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(outputs(ir.to_proto(model), given), outputs(file, given), rtol=1e-4, atol=1e-5)


def test_images_are_fed_in_the_layout_of_the_file(tmp_path: Path) -> None:
    path = save(nhwc_net(), tmp_path)
    preprocess = Preprocess.from_config(load(resolve(str(path))).data_config)
    assert preprocess.input_size == (3, 16, 16) and preprocess.layout == "nhwc"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    last, first = (preprocess_image(image, p) for p in (preprocess, preprocess.model_copy(update={"layout": "nchw"})))
    assert last.shape == (16, 16, 3) and last.flags.c_contiguous
    np.testing.assert_array_equal(last.transpose(2, 0, 1), first)


def test_a_layout_in_a_file_of_preprocessing_is_left_aside(tmp_path: Path) -> None:
    path = tmp_path / "preprocess.json"
    path.write_text('{"layout": "nhwc", "crop_pct": 1.0}')
    given = Preprocess(input_size=(3, 8, 8), mean=(0.5,), std=(0.5,)).with_file(path)
    assert given.layout == "nchw" and given.crop_pct == 1.0
