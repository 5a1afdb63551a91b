"""run.py --build: the plan is built from the bundle's graph by the library that is there, new or old."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.engines.bundle.runner import LEGACY_NAME, travelling_modules, write_legacy_graph
from tests.engines.bundle.bundles import tiny_network


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What builds plans beside run.py: it finds modules beside it, which here lie in other packages."""
    for module in travelling_modules():
        monkeypatch.syspath_prepend(str(module.parent))
    return importlib.import_module("bundle_plan")


def content(**changes: object) -> dict[str, Any]:
    return {"target": "tensorrt-rtx", "deploy": "deploy.onnx", "batch": [1, 4], "precision": "fp32"} | changes


def test_a_real_plan_is_built(tmp_path: Path, plans: ModuleType) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    tiny_network(tmp_path / "deploy.onnx", "batch")

    names = ("Builder", "ILogger", "OnnxParser", "NetworkDefinitionCreationFlag", "BuilderFlag", "__version__")
    here = SimpleNamespace(**{name: getattr(trt, name) for name in names})
    # The only thing that a device would answer and this machine cannot: which GPU to compile for.
    here.ComputeCapability = SimpleNamespace(CURRENT=trt.ComputeCapability.SM86)
    plan = tmp_path / "plans" / "it.plan"
    plans.build_plan(content(), tmp_path, plan, here)
    assert plan.stat().st_size > 1000
    assert [path.name for path in plan.parent.iterdir()] == ["it.plan"]


# A build takes minutes: that its plan has no place to go must be heard before.
def test_a_plan_that_has_no_place_is_refused_before_it_is_built(tmp_path: Path, plans: ModuleType) -> None:
    (tmp_path / "deploy.onnx").write_bytes(b"graph")
    (tmp_path / "plans").write_text("a file is where the folder should be")
    old = OldTensorRt()
    with pytest.raises(plans.BadInputError, match=r"it\.plan cannot be written .*--plan"):
        plans.build_plan(content(target="tensorrt"), tmp_path, tmp_path / "plans" / "it.plan", old)
    assert old.parsed is None


# Two bundles of one network differ in the batches that they take: the plan of one does not serve the other.
@pytest.mark.parametrize("change", [{"batch": [1, 8]}, {"precision": "fp16"}, {"target": "tensorrt"}])
def test_a_plan_is_found_again_for_the_same_bundle_and_device_only(
    tmp_path: Path, plans: ModuleType, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    listed = {"files": [{"name": "deploy.onnx", "sha256": "0" * 64}]}
    orin = SimpleNamespace(name=lambda: "Orin", compute_capability=lambda: (8, 7))
    first = plans.plan_path(content(**listed), OldTensorRt, orin)
    assert first == plans.plan_path(content(**listed), OldTensorRt, orin)
    assert first.parent == tmp_path / "radixrt" / "plans"
    assert first != plans.plan_path(content(**listed, **change), OldTensorRt, orin)


class OldTensorRt:
    """TensorRT 8.5 as far as a build meets it; keeps what it was given."""

    __version__ = "8.5.2.2"
    BuilderFlag = SimpleNamespace(FP16="FP16", INT8="INT8")
    NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0)
    ILogger = object

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.network_flags = self.parsed = None

    def Builder(self, logger: object) -> Any:  # noqa: N802 - the library's name
        tensor = SimpleNamespace(name="input", shape=(1, 3, 32, 32))
        return SimpleNamespace(
            create_network=lambda flags: [
                setattr(self, "network_flags", flags),
                SimpleNamespace(num_inputs=1, get_input=lambda i: tensor),
            ][1],
            create_builder_config=lambda: SimpleNamespace(set_flag=self.flags.append),
            build_serialized_network=lambda network, config: b"plan",
        )

    def OnnxParser(self, network: object, logger: object) -> Any:  # noqa: N802 - the library's name
        return SimpleNamespace(parse=lambda data: [setattr(self, "parsed", data), True][1])


def test_tensorrt_8_gets_flags_and_the_older_graph(tmp_path: Path, plans: ModuleType) -> None:
    (tmp_path / "deploy.onnx").write_bytes(b"typed graph of opset 18")
    (tmp_path / LEGACY_NAME).write_bytes(b"older graph")
    old = OldTensorRt()
    plans.build_plan(content(target="tensorrt", precision="int8"), tmp_path, tmp_path / "it.plan", old)
    assert old.parsed == b"older graph"
    assert old.flags == ["FP16", "INT8"]
    assert old.network_flags == 1
    assert (tmp_path / "it.plan").read_bytes() == b"plan"


def half_network(path: Path) -> None:
    """FP16 inside, opset 18: ReduceMean with its axes as an input."""
    nodes = [
        helper.make_node("Cast", ["input"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "gain"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(np.full((1, 3, 1, 1), 1.5, np.float16), "gain"),
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


def test_the_older_graph_computes_the_same(tmp_path: Path) -> None:
    half_network(tmp_path / "deploy.onnx")
    legacy = write_legacy_graph(tmp_path / "deploy.onnx")
    assert legacy is not None
    model = onnx.load(legacy)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == 17
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in model.graph.initializer}
    image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    new, old = (
        onnxruntime.InferenceSession(str(path)).run(None, {"input": image})[0]
        for path in (tmp_path / "deploy.onnx", legacy)
    )
    # The older form rounds less: what FP16 loses over 64 values of about 1.5 is the whole difference.
    np.testing.assert_allclose(new, old, atol=5e-3, rtol=0)


def test_a_graph_that_tensorrt_8_reads_is_not_written_twice(tmp_path: Path) -> None:
    tiny_network(tmp_path / "deploy.onnx")
    assert write_legacy_graph(tmp_path / "deploy.onnx") is None


@pytest.mark.parametrize(
    ("built_for", "said"),
    [
        ({"system": "Windows"}, "built for Windows"),
        ({"machine": "riscv"}, "built for riscv"),
        ({"library_version": "9.9"}, r"built for 9\.9, this is 8\.5\.2\.2"),
        ({"compute_capabilities": ["8.6", "12.0"]}, r"built for SM 8\.6 or 12\.0, this GPU is SM 8\.7"),
    ],
)
def test_a_plan_for_something_else_is_refused(plans: ModuleType, built_for: dict[str, Any], said: str) -> None:
    orin = SimpleNamespace(compute_capability=lambda: (8, 7))
    plans.refuse_other_device({"built_for": None}, OldTensorRt, orin)
    with pytest.raises(plans.UnavailableError, match=said):
        plans.refuse_other_device({"built_for": built_for}, OldTensorRt, orin)


def test_portable_plans_are_taken(plans: ModuleType) -> None:
    orin = SimpleNamespace(compute_capability=lambda: (8, 7))
    built = {"library_version": "8.5.1", "version_compatible": True}
    plans.refuse_other_device({"built_for": built}, OldTensorRt, orin)
    built = {"compute_capabilities": ["8.0"], "hardware_compatible": True}
    plans.refuse_other_device({"built_for": built}, OldTensorRt, orin)
