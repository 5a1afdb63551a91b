"""The path that classic TensorRT takes too, run for real: only execution needs a GPU."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.tensorrt import build as plans
from radixrt.engines.tensorrt.available import Gpu
from radixrt.engines.tensorrt.rtx import target as tensorrt_rtx
from radixrt.engines.tensorrt.rtx.plan_cost import PlanCost, plan_cost
from radixrt.engines.tensorrt.rtx.target import TensorRtRtxTarget
from radixrt.errors import InputError, UnavailableError
from radixrt.export.sides import SideRange, Sides
from radixrt.export.spec import BatchSpec, Precision
from tests.networks import gated

pytest.importorskip("tensorrt_rtx")

OPTIONS = BuildOptions(Precision.FP16, compute_capabilities=("8.6",))


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_plan_is_built_with_its_kernels_beside_it(tmp_path: Path, kind: str) -> None:
    options = BuildOptions(Precision(kind), compute_capabilities=("8.6", "12.0"))
    built = registry.get("tensorrt-rtx").build(gated.save(tmp_path, kind), tmp_path, options)
    assert [file.name for file in built.files] == ["engine.plan", "engine.kernels.json"]
    assert built.files[0].stat().st_size > 10_000
    assert built.facts["compute_capabilities"] == "8.6, 12.0"
    cost = PlanCost.model_validate_json(built.files[1].read_text())
    assert built.facts["bytes_moved"] == str(cost.bytes_moved)
    assert any("FP16 plan would" in note for note in built.notes) == (kind == "int8")


# A server's GPU or a Jetson's is none that this library compiles for: opening a plan there could only fail.
def test_a_gpu_that_it_does_not_compile_for_builds_and_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_rtx, "find_gpu", lambda: Gpu("H100", "9.0"))
    can = TensorRtRtxTarget().capability()
    assert (can.builds, can.runs) == (True, False)
    assert "H100 has compute capability 9.0" in can.reason and "7.5, 8.0, 8.6" in can.hint
    monkeypatch.setattr(tensorrt_rtx, "find_gpu", lambda: Gpu("RTX 2080", "7.5"))
    assert TensorRtRtxTarget().capability().runs


# What is built on a machine without a choice must open on that machine.
@pytest.mark.parametrize(
    ("here", "compiled_for"),
    [("", "8.6, 8.9, 12.0"), ("8.9", "8.6, 8.9, 12.0"), ("7.5", "7.5"), ("9.0", "8.6, 8.9, 12.0")],
)
def test_without_a_choice_the_gpu_that_is_here_is_compiled_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: str, compiled_for: str
) -> None:
    monkeypatch.setattr(tensorrt_rtx, "find_gpu", lambda: Gpu("", here))
    built = registry.get("tensorrt-rtx").build(
        gated.save(tmp_path, "fp16"), tmp_path, replace(OPTIONS, compute_capabilities=())
    )
    assert built.facts["compute_capabilities"] == compiled_for


def test_a_dynamic_batch_is_built_for_its_whole_range(tmp_path: Path) -> None:
    options = BuildOptions(Precision.FP16, BatchSpec(1, 8), compute_capabilities=("8.6",))
    built = registry.get("tensorrt-rtx").build(gated.save(tmp_path, "fp16", "batch"), tmp_path, options)
    assert built.files[0].exists()


# The report must never look as if the plan had been run.
def test_a_plan_that_cannot_run_here_says_so(tmp_path: Path) -> None:
    target = registry.get("tensorrt-rtx")
    if target.capability().runs:
        pytest.skip("an RTX GPU is here")
    built = target.build(gated.save(tmp_path, "fp16"), tmp_path, OPTIONS)
    assert any("not executed" in note for note in built.notes)
    with pytest.raises(UnavailableError, match="not executed"):
        target.open(built.files[0])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"dla_core": 0}, "finds 0 DLA cores"),
        ({"hardware_compatible": True}, "use compute capabilities"),
        # NVIDIA: engines are not compatible between releases. The builder takes the flag, and it promises nothing.
        ({"version_compatible": True}, "with the release that built it and with no other"),
        ({"refit": True}, "on a GPU only"),
        ({"strip_plan": True}, "on a GPU only"),
    ],
)
def test_what_it_cannot_give_is_refused_before_it_builds(tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    target = registry.get("tensorrt-rtx")
    if target.capability().runs and "only" in said:
        pytest.skip("a GPU is here, where such plans can be built")
    with pytest.raises(InputError, match=said):
        target.build(gated.save(tmp_path, "fp16"), tmp_path, replace(OPTIONS, **asked))
    assert not list(tmp_path.glob("*.plan"))


def test_a_build_tells_of_its_phases(tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    registry.get("tensorrt-rtx").build(
        gated.save(tmp_path, "fp16"),
        tmp_path,
        OPTIONS,
        progress=lambda phase, done, total: not seen.setdefault(phase, []).append((done, total)),
    )
    assert len(seen) >= 5 and any(len(steps) > 3 for steps in seen.values())
    assert all(0 <= done <= total for steps in seen.values() for done, total in steps)


# A terminal that goes away while a build shows its steps must not be reported as a graph that cannot be built.
def test_what_goes_wrong_in_the_display_is_raised_as_it_is(tmp_path: Path) -> None:
    def gone(phase: str, done: int, total: int) -> bool:
        raise BrokenPipeError("the reader has gone")

    with pytest.raises(BrokenPipeError, match="the reader has gone"):
        registry.get("tensorrt-rtx").build(gated.save(tmp_path, "fp16"), tmp_path, OPTIONS, progress=gone)


# Ctrl-C inside a callback would have to pass through the library's C++, which ends the process without tidying up.
def test_ctrl_c_stops_a_build_and_leaves_no_plan(tmp_path: Path) -> None:
    graph = gated.save(tmp_path, "fp16")
    steps: list[str] = []

    def interrupt(phase: str, done: int, total: int) -> bool:
        steps.append(phase)
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            # Until the main thread has heard of it.
            time.sleep(0.5)
        return True

    with pytest.raises(KeyboardInterrupt):
        registry.get("tensorrt-rtx").build(graph, tmp_path, OPTIONS, progress=interrupt)
    assert len(set(steps)) < 5
    assert not list(tmp_path.glob("*.plan"))


def test_a_node_that_it_cannot_take_is_named_with_a_way_out(tmp_path: Path) -> None:
    model = gated.tiny("fp32")
    nodes = list(model.graph.node)
    odd = helper.make_node("Det", ["relu"], ["det"], name="head.odd")
    scopes = odd.metadata_props.add()
    scopes.key, scopes.value = "pkg.torch.onnx.name_scopes", "['', 'head', 'head.odd', 'det']"
    model.graph.node.append(odd)
    model.graph.output.append(helper.make_tensor_value_info("det", 1, [1, 32]))
    assert len(model.graph.node) == len(nodes) + 1
    path = tmp_path / "deploy.onnx"
    onnx.save(model, path)
    target = registry.get("tensorrt-rtx")
    with pytest.raises(InputError, match=r"does not take Det at 'head\.odd'.*TARGET=onnxruntime") as refused:
        target.build(path, tmp_path, OPTIONS)
    assert target.refusal(ir.from_proto(model)) == str(refused.value), "said after calibration only"
    assert target.refusal(ir.from_proto(gated.tiny("fp32"))) is None


# Half the weights and half the activations: a counter that missed a section would not see it.
def test_an_fp16_plan_moves_about_half_of_what_fp32_moves() -> None:
    full = plan_cost(gated.tiny("fp32", size=64).SerializeToString(), BuildOptions(Precision.FP32))
    half = plan_cost(gated.tiny("fp16", size=64).SerializeToString(), OPTIONS)
    assert 0.4 < half.bytes_moved / full.bytes_moved < 0.75
    assert half.macs == full.macs > 32 * 64 * 64 * 27


# The profile is what a plan takes: from the lowest size to the highest, tuned for the middle one.
def test_free_sides_become_the_profile_of_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[batch,3,height,width] x) => (float[batch,3,height,width] y) '
        "{ y = Relu(x) }"
    )
    onnx.save(model, tmp_path / "deploy.onnx")
    seen: list[Any] = []
    add = plans._add_profile

    class Recording:
        def __init__(self, builder: Any) -> None:
            self.builder = builder

        def create_optimization_profile(self) -> Any:
            seen.append(self.builder.create_optimization_profile())
            return seen[-1]

    monkeypatch.setattr(plans, "_add_profile", lambda api, builder, *rest: add(api, Recording(builder), *rest))
    sides = Sides(SideRange(320, 960, 32), SideRange(320, 640, 32))
    options = BuildOptions(Precision.FP32, BatchSpec(1, 4), compute_capabilities=("8.6",), sides=sides)
    built = registry.get("tensorrt-rtx").build(tmp_path / "deploy.onnx", tmp_path, options)
    assert built.files[0].stat().st_size > 1000
    ends = [tuple(shape) for shape in seen[0].get_shape("x")]
    assert ends == [(1, 3, 320, 320), (4, 3, 640, 480), (4, 3, 960, 640)]
