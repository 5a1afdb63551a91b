"""An ONNX file from anywhere is read whole or refused in one sentence; nothing it claims is believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx, with_batch
from radixrt.export.reader.simplify import simplify, write_onnx
from radixrt.export.spec import BatchSpec, FileChoice


def tiny(batch: int | str = "N", opset: int = 18, **changes: object) -> onnx.ModelProto:
    """A convolution, a pool and a linear layer: 3 x 8 x 8 images, 5 classes."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b": np.zeros(4, np.float32),
        "fc": rng.standard_normal((4, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "fc"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return result


def test_a_good_file_keeps_its_interface_and_its_values(tmp_path: Path) -> None:
    model = read_onnx(save(tiny(), tmp_path))
    assert [value.name for value in model.graph.inputs] == ["image"]
    assert str(model.graph.inputs[0].shape) == "[batch,3,8,8]"
    assert str(model.graph.outputs[0].shape) == "[batch,5]"
    names = [node.name for node in model.graph]
    assert all(names) and len(set(names)) == len(names)
    images = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    written = tmp_path / "out.onnx"
    write_onnx(simplify(model), written)
    np.testing.assert_allclose(run(onnx.load(written), images), run(tiny(), images), rtol=0, atol=1e-5)


def test_a_batch_can_be_fixed_but_not_changed(tmp_path: Path) -> None:
    dynamic = read_onnx(save(tiny(), tmp_path))
    fixed = with_batch(dynamic, BatchSpec(4, 4))
    assert str(fixed.graph.inputs[0].shape) == "[4,3,8,8]"
    assert str(fixed.graph.outputs[0].shape) == "[4,5]"
    assert with_batch(dynamic, BatchSpec(1, 4)) is dynamic
    with pytest.raises(InputError, match="batch of 4, not 2"):
        with_batch(fixed, BatchSpec(2, 2))


def test_nodes_in_any_order_are_sorted(tmp_path: Path) -> None:
    model = tiny()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    assert next(iter(read_onnx(save(model, tmp_path)).graph)).op_type == "Conv"


def test_weights_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    model = tiny()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    assert [value.name for value in read_onnx(save(model, tmp_path)).graph.inputs] == ["image"]


def test_a_reshape_by_the_batch_of_opset_13_has_a_shape(tmp_path: Path) -> None:
    # What TorchScript wrote for `x.view(x.shape[0], 2, -1)`; onnx infers no shape there before opset 14.
    model = tiny(opset=13)
    constants = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([2, -1]), "whole": np.array([-1, 4])}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    chain = [
        helper.make_node("Shape", ["p"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "first"], ["u"]),
        helper.make_node("Concat", ["u", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["p", "to"], ["halves"]),
        helper.make_node("Softmax", ["halves"], ["gates"], axis=1),
        helper.make_node("Reshape", ["gates", "whole"], ["f"]),
    ]
    nodes = [*model.graph.node[:3], *chain, model.graph.node[4]]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    simplified = simplify(read_onnx(save(model, tmp_path)))
    images = np.ones((2, 3, 8, 8), np.float32)
    written = tmp_path / "out.onnx"
    write_onnx(simplified, written)
    np.testing.assert_allclose(run(onnx.load(written), images), run(model, images), rtol=0, atol=1e-5)


def test_an_old_opset_is_converted_and_computes_the_same(tmp_path: Path) -> None:
    old = tiny(opset=11)
    model = read_onnx(save(old, tmp_path))
    assert model.opset_imports[""] == 18
    images = np.ones((2, 3, 8, 8), np.float32)
    written = tmp_path / "out.onnx"
    write_onnx(model, written)
    np.testing.assert_allclose(run(onnx.load(written), images), run(old, images), rtol=0, atol=1e-5)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    model = tiny()
    opsets = [helper.make_opsetid("", 18)]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("mine", "Act", ["x"], ["y"], body, opsets))
    model.graph.node[1].CopyFrom(helper.make_node("Act", ["c"], ["r"], "act", domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert "Relu" in [node.op_type for node in read_onnx(save(model, tmp_path)).graph]


def _nan(model: onnx.ModelProto) -> None:
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))


def _cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r"


def _gigantic_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def _gigantic_value(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 15, 1 << 15, 1, 1]), "huge"))
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["zeros"]))
    model.graph.node.insert(1, helper.make_node("ReduceMax", ["zeros"], ["most"]))
    model.graph.node.append(helper.make_node("Add", ["scores", "most"], ["sum"]))


def _complex(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.complex64), "phases"))


def _strings(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(["cat"], object), "names"))


def _bytes_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def _flat_input(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[2:]


def _free_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def _no_output(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def _rowless_output(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["w"], ["rowless"]))
    model.graph.output.append(helper.make_tensor_value_info("rowless", TensorProto.FLOAT, None))


def _integer_output(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("ArgMax", ["scores"], ["best"], axis=1))
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, None))


def _map_output(model: onnx.ModelProto) -> None:
    del model.graph.node[2:]
    model.graph.output[0].name = "r"


def _wrong_channels(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7


def _foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.example"


def _unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Rleu"


def _loop(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Loop"


def _future(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 9999


def _ancient(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 1


def _missing_value(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


def _twice_made(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "c"


def _recursive_function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Act", ["x"], ["y"], domain="mine")]
    model.functions.append(helper.make_function("mine", "Act", ["x"], ["y"], body, [helper.make_opsetid("mine", 1)]))
    model.graph.node[1].CopyFrom(helper.make_node("Act", ["c"], ["r"], "act", domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))


# Everything behind takes the first output for the logits, so they must stand there whatever their place was.
@pytest.mark.parametrize(("wanted", "order"), [(None, ["scores", "p"]), ("f", ["f", "p", "scores"])])
def test_of_several_outputs_the_logits_come_first(wanted: str | None, order: list[str], tmp_path: Path) -> None:
    model = tiny()
    model.graph.output.insert(0, helper.make_tensor_value_info("p", TensorProto.FLOAT, None))
    if wanted is not None:
        model.graph.output.append(helper.make_tensor_value_info(wanted, TensorProto.FLOAT, None))
    found = read_onnx(save(model, tmp_path), FileChoice(logits=wanted))
    assert [value.name for value in found.graph.outputs] == order
    with pytest.raises(InputError, match=r"has no output 'nobody': name one of p .* with --logits"):
        read_onnx(save(model, tmp_path), FileChoice(logits="nobody"))


def test_an_output_without_a_row_for_each_image_leaves_one_image_at_a_time(tmp_path: Path) -> None:
    model, said = tiny(), []  # type: ignore[var-annotated]
    _rowless_output(model)
    graph = read_onnx(save(model, tmp_path), remark=said.append).graph
    assert "computes only batches of 1" in said[0] and len(graph.outputs) == 2
    model = tiny(batch=2)
    _rowless_output(model)
    with pytest.raises(InputError, match="output rowless does not have one row per image"):
        read_onnx(save(model, tmp_path))


# What outputs mean is for a task to say: the reader takes maps and integers as they are.
@pytest.mark.parametrize(
    ("change", "shapes"),
    [(_map_output, {"r": [None, 4, 6, 6]}), (_integer_output, {"scores": [None, 5], "best": [None, 1]})],
)
def test_outputs_of_any_rank_and_of_integers_are_taken(
    change: Callable[[onnx.ModelProto], None], shapes: dict[str, list[int | None]], tmp_path: Path
) -> None:
    model = tiny()
    change(model)
    outputs = read_onnx(save(model, tmp_path)).graph.outputs
    found = {v.name: [side if isinstance(side, int) else None for side in v.shape or ()] for v in outputs}
    assert found == shapes


# One network, free sides: what the user names is put in the place of what the file leaves open, and of nothing else.
def test_free_sides_become_those_that_are_asked_for(tmp_path: Path) -> None:
    model = tiny()
    _free_size(model)
    (image,) = read_onnx(save(model, tmp_path), FileChoice(input_size=(3, 24, 8))).graph.inputs
    assert [side for side in image.shape or () if isinstance(side, int)] == [3, 24, 8]
    with pytest.raises(InputError, match="takes image of 8 where 16 was asked for: name what it takes"):
        read_onnx(save(model, tmp_path), FileChoice(input_size=(3, 16, 16)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan, "w holds 1 NaN"),
        (_cycle, "cycle"),
        (_gigantic_weight, "w claims .* holds|more than 2 GB"),
        (_gigantic_value, "more than this compiler takes on"),
        (_complex, "phases is of the unsupported type complex64"),
        (_strings, "names is of the unsupported type string"),
        (_bytes_input, r"unsupported type: tensor\(uint8\)"),
        (_flat_input, "not a valid ONNX graph"),
        (_free_size, r"leaves the sides of image free .*: name them with --input-size"),
        (_no_output, "no output"),
        (_wrong_channels, "does not run on an image"),
        (_foreign_operator, "com.example.Relu"),
        (_unknown_operator, "not a valid ONNX graph"),
        (_loop, "loops cannot be compiled"),
        (_future, "opset 9999"),
        (_ancient, "opset 1 "),
        (_missing_value, "not a valid ONNX graph"),
        (_twice_made, "not a valid ONNX graph"),
        (_recursive_function, "read|valid"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_compiled_is_refused_by_name(
    spoil: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    model = tiny()
    spoil(model)
    with pytest.raises(InputError, match=message) as caught:
        read_onnx(save(model, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not onnx", bytes(range(256)) * 4, tiny().SerializeToString()[:-300]])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(InputError):
        read_onnx(tmp_path / "x.onnx")
    with pytest.raises(InputError, match="no ONNX file at"):
        read_onnx(tmp_path / "absent.onnx")


@pytest.mark.parametrize("first", [b"\xff", b"\n", b"\x1b"])
def test_names_that_are_no_text_are_refused(first: bytes, tmp_path: Path) -> None:
    # Found by mutating files: protobuf hands bytes out as a name, and writing the graph failed much later; control
    # codes in a name would reach the terminal with the first message about it.
    content = tiny().SerializeToString().replace(b"conv", first + b"onv")
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(InputError, match="no text"):
        read_onnx(tmp_path / "x.onnx")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int, end: int
) -> None:
    # Whatever a byte or a cut does, the answer is a graph or an InputError, never another exception.
    content = bytearray(tiny().SerializeToString())
    content[place % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content if end % 4 else content[: end % len(content)])
    try:
        model = read_onnx(path)
    except InputError:
        return
    assert len(model.graph.inputs) == 1
