"""A simplified graph computes what it computed, is valid, fully shaped, and tells nothing about the machine it was
exported on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.errors import InputError
from radixrt.export.graph.origin import NAME_SCOPES, module_of
from radixrt.export.graph.save import write_onnx
from radixrt.export.reader.simplify import simplify
from radixrt.export.source.reference import onnx_runner


def network() -> ir.Model:
    """Conv, BatchNorm, Identity, and a reshape by a Shape chain that a fixed image size makes constant."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)

    weights = {
        "stem.conv.weight": floats(4, 3, 3, 3),
        "scale": floats(4),
        "shift": floats(4),
        "mean": floats(4),
        "variance": floats(4),
        "head.weight": floats(4 * 6 * 6, 5),
        "one": np.array([1, 2, 3], np.int64),
        "minus_one": np.array([-1], np.int64),
        "zero": np.array(0, np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["input", "stem.conv.weight"], ["c"], "node_conv"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["d"], "node_bn"),
        helper.make_node("Identity", ["d"], ["e"], "node_id"),
        helper.make_node("Shape", ["e"], ["s"], "node_shape"),
        helper.make_node("Gather", ["s", "one"], ["chw"], "node_gather"),
        helper.make_node("ReduceProd", ["chw"], ["features"], "node_prod", keepdims=1),
        helper.make_node("Concat", ["minus_one", "features"], ["target"], "node_concat", axis=0),
        helper.make_node("Reshape", ["e", "target"], ["flat"], "node_reshape"),
        helper.make_node("MatMul", ["flat", "head.weight"], ["logits"], "node_head"),
    ]
    for node, module in zip(nodes, ["stem.conv", "stem.bn", "stem.id", *["flatten"] * 5, "head"], strict=True):
        node.doc_string = "/home/someone/model.py"
        node.metadata_props.add(key=NAME_SCOPES, value=repr(["", module, "op"]))
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value='File "/home/someone/model.py", line 1')
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
        doc_string="/home/someone",
    )
    graph.initializer[0].doc_string = "/home/someone/weights"
    graph.metadata_props.add(key="pkg.torch.export.ExportedProgram.graph_signature", value="/home/someone")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    loaded: ir.Model = ir.from_proto(model)
    return loaded


def test_values_stay_and_shape_chains_go() -> None:
    images = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    simplified = simplify(network())
    assert [node.op_type for node in simplified.graph] == ["Conv", "Reshape", "MatMul"]
    # float32; the BatchNorm is folded into the convolution, whose products are then rounded differently.
    np.testing.assert_allclose(
        onnx_runner(simplified)({"input": images}), onnx_runner(network())({"input": images}), rtol=1e-5, atol=1e-4
    )


def test_every_value_has_a_shape_and_the_batch_keeps_its_name() -> None:
    simplified = simplify(network())
    assert [str(node.outputs[0].shape) for node in simplified.graph] == ["[batch,4,6,6]", "[batch,144]", "[batch,5]"]


def test_modules_survive_and_nothing_else_of_the_metadata_does() -> None:
    simplified = simplify(network())
    # The convolution keeps its own name although it now computes the BatchNorm too.
    assert [module_of(node) for node in simplified.graph] == ["stem.conv", "flatten", "head"]
    content = ir.to_proto(simplified).SerializeToString()
    assert b"/home/someone" not in content
    assert b"onnxsim" not in content


def test_a_node_of_the_exporters_own_belongs_to_what_it_works_on() -> None:
    model = network()
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    del reshape.metadata_props[NAME_SCOPES]
    found = next(node for node in simplify(model).graph if node.op_type == "Reshape")
    assert module_of(found) == "stem.conv"


def test_the_original_is_left_alone() -> None:
    original = network()
    before = ir.to_proto(original).SerializeToString()
    simplify(original)
    assert ir.to_proto(original).SerializeToString() == before


def test_an_invalid_graph_is_refused() -> None:
    model = network()
    next(iter(model.graph)).op_type = "Convolution"
    with pytest.raises(InputError):
        simplify(model)


def test_writing_replaces_the_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "deploy.onnx"
    path.write_bytes(b"old")
    write_onnx(network(), path)
    onnx.checker.check_model(onnx.load(path))
    assert [file.name for file in tmp_path.iterdir()] == ["deploy.onnx"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deploy.onnx"
    path.write_bytes(b"old")

    def full(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ir, "save", full)
    with pytest.raises(InputError, match="no space left on device"):
        write_onnx(network(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["deploy.onnx"]
    assert path.read_bytes() == b"old"


def test_large_weights_go_beside_the_graph(tmp_path: Path) -> None:
    # The limit is lowered here; at its real value, 2 GB, protobuf would refuse the file.
    path = tmp_path / "deploy.onnx"
    write_onnx(network(), path, limit=1)
    data = [file for file in tmp_path.iterdir() if file != path]
    assert len(data) == 1 and data[0].name.startswith("deploy.onnx.") and data[0].suffix == ".data"
    images = np.ones((2, 3, 8, 8), np.float32)
    found = onnx_runner(onnx.load(path))({"input": images})
    np.testing.assert_array_equal(found, onnx_runner(network())({"input": images}))
