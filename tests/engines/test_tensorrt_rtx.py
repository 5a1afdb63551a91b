"""The path that classic TensorRT takes too, run for real: only execution needs a GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.plan_cost import PlanCost, plan_cost
from radixrt.errors import InputError, UnavailableError
from radixrt.export.spec import BatchSpec, Precision
from tests.engines import graphs

pytest.importorskip("tensorrt_rtx")

OPTIONS = BuildOptions(Precision.FP16, compute_capabilities=("8.6",))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_plan_is_built_with_its_kernels_beside_it(tmp_path: Path, kind: str) -> None:
    options = BuildOptions(Precision(kind), compute_capabilities=("8.6", "12.0"))
    built = registry.get("tensorrt-rtx").build(graphs.save(tmp_path, kind), tmp_path, options)
    assert [file.name for file in built.files] == ["engine.plan", "engine.kernels.json"]
    assert built.files[0].stat().st_size > 10_000
    assert built.facts["compute_capabilities"] == "8.6, 12.0"
    cost = PlanCost.model_validate_json(built.files[1].read_text())
    assert built.facts["bytes_moved"] == str(cost.bytes_moved)
    assert any("FP16 plan would" in note for note in built.notes) == (kind == "int8")


def test_a_dynamic_batch_is_built_for_its_whole_range(tmp_path: Path) -> None:
    options = BuildOptions(Precision.FP16, BatchSpec(1, 8), compute_capabilities=("8.6",))
    built = registry.get("tensorrt-rtx").build(graphs.save(tmp_path, "fp16", "batch"), tmp_path, options)
    assert built.files[0].exists()


# The report must never look as if the plan had been run.
def test_a_plan_that_cannot_run_here_says_so(tmp_path: Path) -> None:
    target = registry.get("tensorrt-rtx")
    if target.capability().runs:
        pytest.skip("an RTX GPU is here")
    built = target.build(graphs.save(tmp_path, "fp16"), tmp_path, OPTIONS)
    assert any("not executed" in note for note in built.notes)
    with pytest.raises(UnavailableError, match="not executed"):
        target.open(built.files[0])


def test_a_node_that_it_cannot_take_is_named_with_a_way_out(tmp_path: Path) -> None:
    model = graphs.tiny("fp32")
    nodes = list(model.graph.node)
    odd = helper.make_node("Det", ["relu"], ["det"], name="head.odd")
    scopes = odd.metadata_props.add()
    scopes.key, scopes.value = "pkg.torch.onnx.name_scopes", "['', 'head', 'head.odd', 'det']"
    model.graph.node.append(odd)
    model.graph.output.append(helper.make_tensor_value_info("det", 1, [1, 32]))
    assert len(model.graph.node) == len(nodes) + 1
    path = tmp_path / "deploy.onnx"
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"does not take Det at 'head\.odd'.*TARGET=onnxruntime"):
        registry.get("tensorrt-rtx").build(path, tmp_path, OPTIONS)


# Half the weights and half the activations: a counter that missed a section would not see it.
def test_an_fp16_plan_moves_about_half_of_what_fp32_moves() -> None:
    full = plan_cost(graphs.tiny("fp32", size=64).SerializeToString(), BuildOptions(Precision.FP32))
    half = plan_cost(graphs.tiny("fp16", size=64).SerializeToString(), OPTIONS)
    assert 0.4 < half.bytes_moved / full.bytes_moved < 0.75
    assert half.macs == full.macs > 32 * 64 * 64 * 27
