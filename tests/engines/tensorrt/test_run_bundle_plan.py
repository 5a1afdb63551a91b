"""``run.py`` with a plan, against recorded TensorRT surfaces and a stand-in for device memory: profiles and clocks.

As in ``test_session``: no GPU was there, so calls, their order and the copies are tested, and nothing else.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import radixrt.calibration.data
from radixrt.engines.tensorrt.cuda_driver import load_driver
from tests.engines.tensorrt import recorded_api, simulated_cuda

VERSIONS = recorded_api.VERSIONS
PROFILES = [(1, 1), (4, 4), (2, 8)]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(radixrt.calibration.data.__path__[0])
    before = sys.dont_write_bytecode
    yield importlib.import_module("radixrt.engines.bundle.run_bundle")
    sys.dont_write_bytecode = before


class Plan:
    """Doubles its input N x 3, with three profiles. A context knows the shapes and addresses of its profile alone."""

    def __init__(self, runner: ModuleType, version: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        # The surfaces hold its base class alone.
        self.trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})
        (folder / "engine.plan").write_bytes(b"plan")
        self.engine = runner.TensorRt(folder / "engine.plan", self.trt, cuda)

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
    version: str, runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(runner, version, tmp_path, monkeypatch)
    assert plan.engine.ranges == PROFILES
    for size in (1, 4, 3, 8, 4, 1):
        batch = np.random.default_rng(size).normal(size=(size, 3)).astype(np.float32)
        np.testing.assert_array_equal(plan.engine.run(batch)["logits"], batch * 2)
    assert plan.used == [0, 1, 2, 2, 1, 0]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_device_has_a_clock_of_its_own(
    version: str, runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(runner, version, tmp_path, monkeypatch)
    batch = np.ones((4, 3), np.float32)
    before = simulated_cuda.STATE.copies
    assert plan.engine.device_times(batch, 5) == [0.25] * 5
    assert simulated_cuda.STATE.copies == before + 1, "only the kernels are timed"
    told = runner.bench(plan.engine, batch, 5)
    assert told["device_p50_ms"] == 0.25 and told["p50_ms"] > 0


# Nine images for profiles of one, four, and two to eight: eight, and one.
def test_images_are_dealt_to_the_profiles(runner: ModuleType) -> None:
    images = np.arange(9)
    dealt = [(part.stop - part.start, len(b)) for part, b in runner.batches(9, lambda part: images[part], PROFILES)]
    assert dealt == [(8, 8), (1, 1)]
    assert [len(b) for _, b in runner.batches(6, lambda part: images[part], [(4, 4)])] == [4, 4]
    assert runner.range_for(3, [(1, 1), (8, 8)]) == (8, 8)
