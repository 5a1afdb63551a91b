"""``run.py`` with a plan, against recorded TensorRT surfaces and a stand-in for device memory: profiles and clocks.

As in ``test_session``: no GPU was there, so calls, their order and the copies are tested, and nothing else.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from radixrt.engines.bundle.runner import travelling_modules
from radixrt.engines.tensorrt.cuda_driver import load_driver
from tests.engines.tensorrt import recorded_api, simulated_cuda
from tests.engines.tensorrt.test_session import Graphs

VERSIONS = recorded_api.VERSIONS
PROFILES = [(1, 1), (4, 4), (2, 8)]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for module in travelling_modules():
        monkeypatch.syspath_prepend(str(module.parent))
    monkeypatch.setattr(importlib.import_module("cuda_graph"), "find_driver", lambda: None)
    before = sys.dont_write_bytecode
    monkeypatch.setattr(importlib.import_module("bundle_plan"), "WARM_S", 0)
    yield importlib.import_module("radixrt.engines.bundle.run_bundle")
    sys.dont_write_bytecode = before


@pytest.fixture
def plans(runner: ModuleType) -> ModuleType:
    return sys.modules["bundle_plan"]


class Plan:
    """Doubles its input N x 3, with three profiles. A context knows the shapes and addresses of its profile alone."""

    def __init__(self, plans: ModuleType, version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        simulated_cuda.install_cuda_python(monkeypatch)
        cuda = load_driver()
        self.context = cuda.Device(0).retain_primary_context()
        self.context.push()
        self.addresses: dict[str, int] = {}
        self.profile, self.batch, self.used = 0, 0, []  # type: ignore[var-annotated]
        self.trt = recorded_api.load(
            version,
            {
                "ICudaEngine.num_io_tensors": 2,
                "ICudaEngine.num_optimization_profiles": len(PROFILES),
                "ICudaEngine.get_tensor_name": lambda _, index: ("input", "logits")[index],
                "ICudaEngine.get_tensor_shape": (-1, 3),
                "ICudaEngine.get_tensor_dtype": lambda *_: "DataType.FLOAT",
                "ICudaEngine.get_tensor_mode": lambda _, name: self._mode(name),
                "ICudaEngine.get_tensor_profile_shape": lambda _, name, i: [
                    (PROFILES[i][0], 3),
                    (PROFILES[i][1], 3),
                    (PROFILES[i][1], 3),
                ],
                "IExecutionContext.set_optimization_profile_async": self._set_profile,
                "IExecutionContext.set_input_shape": self._set_shape,
                "IExecutionContext.get_tensor_shape": lambda *_: (self.batch, 3),
                "IExecutionContext.set_tensor_address": lambda _, n, at: self.addresses.__setitem__(n, at),
                "IExecutionContext.execute_async_v3": self._execute,
            },
        )
        (folder / "engine.plan").write_bytes(b"plan")
        self.engine = plans.PlanEngine(folder / "engine.plan", self.trt, cuda, "tensorrt", cuda.Device(0))

    def _mode(self, name: str) -> Any:
        return self.trt.TensorIOMode.INPUT if name == "input" else self.trt.TensorIOMode.OUTPUT

    def _set_profile(self, context: Any, index: int, stream: int) -> bool:
        self.profile, self.batch = index, 0
        self.addresses.clear()
        return True

    def _set_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        low, high = PROFILES[self.profile]
        self.batch = shape[0]
        return low <= shape[0] <= high

    def _execute(self, context: Any, stream: int) -> bool:
        memory = simulated_cuda.STATE.addresses
        source, result = (memory[self.addresses[name]].memory for name in ("input", "logits"))
        assert source is not None and result is not None
        result[: self.batch * 12] = (np.frombuffer(bytes(source[: self.batch * 12]), np.float32) * 2).tobytes()
        self.used.append(self.profile)
        return True


@pytest.mark.parametrize("version", VERSIONS)
def test_each_batch_runs_in_the_narrowest_profile_that_fits(
    version: str, plans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(plans, version, tmp_path, monkeypatch)
    assert plan.engine.ranges == PROFILES
    for size in (1, 4, 3, 8, 4, 1):
        batch = np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32)
        np.testing.assert_array_equal(plan.engine.run({"input": batch})["logits"], batch * 2)
    assert plan.used == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_device_has_a_clock_of_its_own(
    version: str, runner: ModuleType, plans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(plans, version, tmp_path, monkeypatch)
    batch = {"input": np.ones((4, 3), np.float32)}
    before = simulated_cuda.STATE.copies
    assert plan.engine.device_times(batch, 5) == ([0.25] * 5, False)
    assert simulated_cuda.STATE.copies == before + 1, "only the kernels are timed"
    told = runner.bench(plan.engine, batch, 5)
    assert told["device_p50_ms"] == 0.25 and told["p50_ms"] > 0


# Launches cost the processor more than a small network costs the GPU: what is timed is one recorded graph.
@pytest.mark.parametrize(("refused", "old"), [("", False), ("", True), ("cuGraphInstantiate", False)])
def test_the_kernels_are_recorded_where_they_can_be(
    refused: str, old: bool, plans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(plans, "10.16", tmp_path, monkeypatch)
    driver = Graphs(refused, old=old)
    driver.work = plan.engine.execute
    monkeypatch.setattr(sys.modules["cuda_graph"], "find_driver", lambda: driver)
    times, graph = plan.engine.device_times({"input": np.ones((4, 3), np.float32)}, 5)
    assert (times, graph) == ([0.25] * 5, not refused)
    assert (driver.launched, driver.alive) == ((0, 0) if refused else (5, 0))


# TensorRT's own logger writes to stdout (seen with 8.5.3), where whoever asked for --json reads.
@pytest.mark.parametrize("version", VERSIONS)
def test_what_tensorrt_says_goes_to_stderr(version: str, plans: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    trt = recorded_api.load(version, {})
    logger = plans.logger_of(trt, ("ERROR", "WARNING"))
    for name in ("ERROR", "WARNING", "INFO"):
        logger.log(f"Severity.{name}", f"{name} was said")
    found = capsys.readouterr()
    assert found.out == "" and found.err == "TensorRT error: ERROR was said\nTensorRT warning: WARNING was said\n"


# What a smaller GPU or a crowded one does: one sentence, and nothing left behind.
def test_a_gpu_without_room_says_so(plans: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(plans, "8.6", tmp_path, monkeypatch)
    plan.engine.run({"input": np.ones((1, 3), np.float32)})
    simulated_cuda.STATE.room = 30
    with pytest.raises(plans.UnavailableError, match=r"no room for input of shape \(4, 3\)"):
        plan.engine.run({"input": np.ones((4, 3), np.float32)})
    plan.engine.close()
    gc.collect()
    assert simulated_cuda.STATE.addresses == {} and plan.engine.engine is None
    full = recorded_api.load("8.6", {"ICudaEngine.create_execution_context": lambda *_: None})
    cuda = load_driver()
    with pytest.raises(plans.UnavailableError, match="more memory than is free"):
        plans.PlanEngine(tmp_path / "engine.plan", full, cuda, "tensorrt", cuda.Device(0))


# A machine without cuBLAS and cuDNN must leave their tactics out; each version knows other sources.
@pytest.mark.parametrize("version", ["8.5", "8.6", "10.16", "11.4"])
def test_tactics_come_from_the_sources_that_are_named(version: str, plans: ModuleType) -> None:
    given: list[int] = []
    trt = recorded_api.load(version, {"IBuilderConfig.set_tactic_sources": lambda _, bits: given.append(bits) or True})
    config = trt.IBuilderConfig()
    plans.choose_tactics(config, trt, ["jit_convolutions", "EDGE_MASK_CONVOLUTIONS"])
    plans.choose_tactics(config, trt, ["none"])
    names = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
    assert given == [sum(1 << int(getattr(trt.TacticSource, name)) for name in names), 0]
    with pytest.raises(plans.BadInputError, match=r"no tactics of CUTLASS: name .*EDGE_MASK"):
        plans.choose_tactics(config, trt, ["cutlass"])


# A check that has ten minutes builds sooner; 8.5 has no levels, only a heuristic.
@pytest.mark.parametrize(("version", "level", "flags"), [("8.5", 2, 1), ("8.5", 4, 0), ("8.6", 2, 0), ("11.4", 5, 0)])
def test_how_long_the_builder_may_search(version: str, level: int, flags: int, plans: ModuleType) -> None:
    seen: list[Any] = []
    trt = recorded_api.load(version, {"IBuilderConfig.set_flag": lambda _, flag: seen.append(flag.name)})
    config = trt.IBuilderConfig()
    plans.choose_level(config, trt, level)
    assert seen == ["ENABLE_TACTIC_HEURISTIC"] * flags
    assert version == "8.5" or config.builder_optimization_level == level


# A second build on the device takes minutes less; timings of another device must not decide.
def test_timings_are_taken_and_those_of_another_device_left(
    plans: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, used = tmp_path / "timings", []  # type: ignore[var-annotated]
    accepted = {b"": True, b"mine": True, b"others": False}

    def create(config: Any, timings: bytes) -> bytes:
        used.append(timings)
        return timings

    answers = {
        "IBuilderConfig.create_timing_cache": create,
        "IBuilderConfig.set_timing_cache": lambda _, cache, mismatch: accepted[cache] and not mismatch,
    }
    config = recorded_api.load("8.6", answers).IBuilderConfig()
    for content in (None, b"mine", b"others"):
        if content is not None:
            file.write_bytes(content)
        plans.load_timings(config, file)
    assert used == [b"", b"mine", b"others", b""]
    assert "another device or version" in capsys.readouterr().err


# Nine images for profiles of one, four, and two to eight: eight, and one.
def test_images_are_dealt_to_the_profiles(runner: ModuleType) -> None:
    def load(part: slice) -> dict[str, Any]:
        return {"input": np.arange(9)[part]}

    dealt = [(part.stop - part.start, len(b["input"])) for part, b in runner.batches(9, load, PROFILES)]
    assert dealt == [(8, 8), (1, 1)]
    assert [len(b["input"]) for _, b in runner.batches(6, load, [(4, 4)])] == [4, 4]
    assert runner.range_for(3, [(1, 1), (8, 8)]) == (8, 8)
