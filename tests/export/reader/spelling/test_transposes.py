"""A file from an NHWC framework: its images are fed as it takes them, its blocks are found behind its transposes."""

from __future__ import annotations

import re
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
from radixrt.export.spec import FileChoice
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import CHANNELS, Net, images, outputs
from tests.networks.onnx_text import graph


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


def test_a_pool_over_a_turned_copy_is_one_over_space(tmp_path: Path) -> None:
    net = Net()
    stem = net.stem()
    turned = net.op("Transpose", [stem], "turned", perm=[0, 2, 3, 1])
    pool = net.op("ReduceMean", [turned, net.constant("axes", [1, 2], np.int64)], "pool", keepdims=0)
    gate = net.op("Relu", [net.op("MatMul", [pool, net.weight("f1", CHANNELS, 8)], "fc1")], "fr")
    gate = net.op("Sigmoid", [net.op("MatMul", [gate, net.weight("f2", 8, CHANNELS)], "fc2")], "gate")
    gate = net.op("Reshape", [gate, net.constant("to", [-1, CHANNELS, 1, 1], np.int64)], "spread")
    net.head(net.op("Mul", [stem, gate], "excited"))
    model, report = rewrite(read_foreign(save(net.model(), tmp_path)).simplified, RewriteOptions())
    assert len(report.attention_blocks) == 1 and all(node.op_type != "Transpose" for node in model.graph)


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


# What segmenters, pyramids and padded strides are made of, channels-last; ``e`` is the image's channels as they come.
_BODIES = {
    "a scaled and padded image": "a = Mul(x, scale) b = Pad(a, pads) t = TO_FIRST(b) c = Conv<strides=[2,2]>(t, w) "
    "y = TO_LAST(c)",
    "a skip": "c = CONV(x) r = Relu(c) d = CONV(r) e = Mul(d, shift) j = Concat<axis=3>(r, e, d) t = TO_FIRST(j) "
    "u = Conv(t, wide) y = TO_LAST(u)",
    "a map made larger": 'c = CONV(x) u = Resize<mode="nearest">(c, none, twice) t = TO_FIRST(u) d = Conv(t, w) '
    "y = TO_LAST(d)",
    "a map of a size": 'c = CONV(x) u = Resize<mode="linear">(c, none, none, size) t = TO_FIRST(u) d = Conv(t, w) '
    "y = TO_LAST(d)",
    "halves": "c = CONV(x) l, r = Split<axis=-1, num_outputs=2>(c) s = Add(l, r) d = Concat<axis=-1>(s, l) "
    "t = TO_FIRST(d) u = Conv(t, w) y = TO_LAST(u)",
    "a shifted map": "c = CONV(x) s = Slice(c, one, five, places) t = TO_FIRST(s) d = Conv(t, w) y = TO_LAST(d)",
    "a class for each place": "c = CONV(x) d = Softmax<axis=-1>(c) m = ArgMax<axis=3, keepdims=0>(d) y = Cast<to=1>(m)",
    "a pooled vector": "c = CONV(x) p = ReduceMean(c, space) r = Reshape(p, rows) y = MatMul(r, head)",
}
_OUTPUTS = {"a class for each place": "float[n,h,w]", "a pooled vector": "float[n,k]"}


@pytest.mark.parametrize("name", _BODIES)
def test_what_stands_between_convolutions_is_channels_first(name: str, tmp_path: Path) -> None:
    text = re.sub(r"(\w+) = CONV\((\w+)\)", r"\1t = TO_FIRST(\2) \1c = Conv(\1t, w) \1 = TO_LAST(\1c)", _BODIES[name])
    text = text.replace("TO_FIRST", "Transpose<perm=[0,3,1,2]>").replace("TO_LAST", "Transpose<perm=[0,2,3,1]>")
    file = ir.to_proto(
        graph(
            f"net (float[n,8,8,4] x) => ({_OUTPUTS.get(name, 'float[n,h,w,k]')} y)\n"
            "<float[4,4,1,1] w, float[4,12,1,1] wide, float[4] shift, float[4,3] head, float[1] scale,"
            " int64[8] pads = {0,1,0,0,0,1,2,0}, float[0] none = {}, float[4] twice = {1,2,2,1},"
            " int64[4] size = {1,16,12,4}, int64[1] one = {1}, int64[1] five = {5}, int64[1] places = {1},"
            " int64[2] space = {1,2}, int64[2] rows = {0,4}>\n"
            f"{{ {text} }}"
        )
    )
    if "size" in _BODIES[name]:
        file.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    given = np.random.default_rng(1).standard_normal((1, 8, 8, 4)).astype(np.float32)
    simple = read_foreign(save(file, tmp_path), FileChoice(input_size=(4, 8, 8))).simplified
    kinds = [node.op_type for node in simple.graph]
    # The image is turned, and what comes out where it is a map.
    assert kinds[0] == "Transpose" or kinds[1] == "Transpose"
    assert kinds.count("Transpose") == (1 if name in _OUTPUTS else 2)
    np.testing.assert_allclose(outputs(ir.to_proto(simple), given), outputs(file, given), rtol=1e-4, atol=1e-5)


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
