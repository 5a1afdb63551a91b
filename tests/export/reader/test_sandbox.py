"""An ONNX file that crashes the libraries, or keeps them busy, ends a child: the command says one sentence."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx, with_batch
from radixrt.export.reader.sandbox import read_foreign
from radixrt.export.reader.simplify import simplify
from radixrt.export.spec import BatchSpec, FileChoice
from tests.cli_runner import radixrt
from tests.export.reader.test_onnx_file import save, tiny

# x86 alone traps the overflow of a division; onnxruntime's kernel checks for zero only.
traps = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the division does not trap here")


def with_nodes(*nodes: onnx.NodeProto, **weights: np.ndarray) -> onnx.ModelProto:
    """``tiny()``, with nodes that end in a scalar ``extra`` which is added to the logits."""
    model = tiny()
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    model.graph.node.extend([*nodes, helper.make_node("Add", ["scores", "extra"], ["sum"])])
    model.graph.output[0].name = "sum"
    return model


def crashing() -> onnx.ModelProto:
    """Divides the smallest integer by -1, which is no 64-bit integer."""
    division = helper.make_node("Div", ["smallest", "minus"], ["quotient"])
    cast = helper.make_node("Cast", ["quotient"], ["extra"], to=1)
    return with_nodes(division, cast, smallest=np.array([-(1 << 63)]), minus=np.array([-1]))


def endless() -> onnx.ModelProto:
    """An Einsum equation that onnx's shape inference never finishes reading."""
    einsum = helper.make_node("Einsum", ["image"], ["all"], equation="....,->")
    return with_nodes(einsum, helper.make_node("ReduceSum", ["all"], ["extra"], keepdims=0))


def gigantic() -> onnx.ModelProto:
    """Expands one value to 2^35, a number that no shape inference can foresee."""
    nodes = (
        helper.make_node("Exp", ["exponent"], ["power"]),
        helper.make_node("Cast", ["power"], ["length"], to=7),
        helper.make_node("Expand", ["one", "length"], ["all"]),
        helper.make_node("ReduceSum", ["all"], ["extra"], keepdims=0),
    )
    return with_nodes(*nodes, exponent=np.array([24.3], np.float32), one=np.ones(1, np.float32))


def test_a_good_file_is_what_this_process_would_have_read(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path)
    found = read_foreign(path, FileChoice(BatchSpec(2, 2)))
    graph = read_onnx(path)
    expected = simplify(with_batch(graph, BatchSpec(2, 2)))
    for model, wanted in ((found.graph, graph), (found.simplified, expected)):
        assert ir.to_proto(model).SerializeToString(deterministic=True) == ir.to_proto(wanted).SerializeToString(
            deterministic=True
        )


def test_a_refusal_is_the_same_sentence(tmp_path: Path) -> None:
    model = tiny()
    model.graph.node[0].input[0] = "r"
    path = save(model, tmp_path)
    with pytest.raises(InputError) as here:
        read_onnx(path)
    with pytest.raises(InputError) as there:
        read_foreign(path)
    assert str(there.value) == str(here.value)


@traps
@pytest.mark.parametrize("command", [("rewrite",), ("engine", "--target", "onnxruntime", "--model")])
def test_a_file_that_crashes_the_libraries_is_one_sentence(tmp_path: Path, command: tuple[str, ...]) -> None:
    output = tmp_path / "out"
    done = radixrt(*command, save(crashing(), tmp_path), "--output", output)
    assert done.code == 2
    assert "crashed the ONNX libraries (SIGFPE)" in done.sentence and "Traceback" not in done.err
    assert not output.exists()


@traps
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("spoil", "said"), [("crash", "SIGFPE"), ("cycle", "cycle"), ("garbage", "truncated")])
def test_a_builder_is_given_no_such_file(tmp_path: Path, target: str, spoil: str, said: str) -> None:
    model = crashing() if spoil == "crash" else tiny()
    if spoil == "cycle":
        model.graph.node[0].input[0] = "r"
    path = save(model, tmp_path)
    if spoil == "garbage":
        path.write_bytes(b"garbage" * 100)
    done = radixrt("build", path, "-o", tmp_path / "engine", "--target", target, "--precision", "int8")
    assert done.code == 2 and said in done.sentence and not (tmp_path / "engine").exists()


def test_a_file_that_keeps_the_libraries_busy_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="took more than 3 s of processor time"):
        read_foreign(save(endless(), tmp_path), longest_s=3)


def test_a_file_that_wants_all_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not run on an image"):
        read_foreign(save(gigantic(), tmp_path))


def test_a_module_of_the_users_folder_takes_no_library_s_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "onnx.py").write_text("raise SystemExit(3)")
    path = save(tiny(), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read_foreign(path).graph.graph.inputs[0].name == "image"
