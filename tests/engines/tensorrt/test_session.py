"""The session that runs plans, against recorded TensorRT surfaces and a stand-in for device memory.

There is no GPU where this was written. What is tested is what can go wrong without one: calls that a version does not
have, their order, contexts left pushed, buffers that are too small, leaked or freed twice, results of one batch size
showing in another. It says nothing about a GPU.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from radixrt.engines.tensorrt import session as cuda_session
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.session import CudaSession
from radixrt.errors import InputError, UnavailableError
from tests.engines.tensorrt import recorded_api, simulated_cuda


class Plan:
    """Doubles its input: an engine of batch 1..4 with input N x 3 and output N x 3, in device memory."""

    def __init__(self, dtype_member: Any) -> None:
        self.addresses: dict[str, int] = {}
        self.batch = 4
        self.launches = 0
        self.answers: recorded_api.Scenario = {
            "ICudaEngine.num_io_tensors": 2,
            "ICudaEngine.get_tensor_name": lambda _, index: ("input", "logits")[index],
            "ICudaEngine.get_tensor_shape": (-1, 3),
            "ICudaEngine.get_tensor_dtype": lambda *_: dtype_member("DataType", "FLOAT"),
            "ICudaEngine.get_tensor_mode": lambda _, name: dtype_member(
                "TensorIOMode", "INPUT" if name == "input" else "OUTPUT"
            ),
            "ICudaEngine.get_tensor_profile_shape": lambda *_: [(1, 3), (4, 3), (4, 3)],
            "IExecutionContext.set_input_shape": self._set_shape,
            "IExecutionContext.get_tensor_shape": lambda *_: (self.batch, 3),
            "IExecutionContext.set_tensor_address": lambda _, name, address: self.addresses.__setitem__(name, address),
            "IExecutionContext.execute_async_v3": self._execute,
            "IRuntimeCache.serialize": lambda *_: b"specialised",
        }

    def _set_shape(self, context: Any, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return 1 <= shape[0] <= 4

    def _execute(self, context: Any, stream: int) -> bool:
        assert stream == simulated_cuda.Stream.handle
        memory = simulated_cuda.STATE.addresses
        source, result = memory[self.addresses["input"]].memory, memory[self.addresses["logits"]].memory
        assert source is not None
        assert result is not None
        size = self.batch * 12
        result[:size] = (np.frombuffer(bytes(source[:size]), np.float32) * 2).tobytes()
        self.launches += 1
        return True


class Graphs:
    """cuda-python's six calls: a graph replays what was enqueued while capturing.

    Up to 11 cuGraphInstantiate takes a log buffer and its size, and cuGraphInstantiateWithFlags is the one without;
    13 has the former alone, without a buffer (read off 11.8.3 and 13.5.0).
    """

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, refused: str = "", *, old: bool = False) -> None:
        self.launched = 0
        self.alive = 0
        self.work: Any = None
        self._refused, self._old = refused, old

    def CUstream(self, handle: int) -> int:  # noqa: N802  -- the driver's own name
        return handle

    def __getattr__(self, name: str) -> Any:
        if name == "cuGraphInstantiateWithFlags" and not self._old:
            raise AttributeError(name)

        def call(*args: Any) -> tuple[Any, ...]:
            if name == self._refused:
                return (900, None)
            if name.startswith("cuGraphInstantiate"):
                if len(args) != (3 if self._old and name == "cuGraphInstantiate" else 2):
                    raise TypeError(f"{name}() takes other arguments")
                self.alive += 1
            elif name == "cuGraphExecDestroy":
                self.alive -= 1
            elif name == "cuGraphLaunch":
                self.launched += 1
                self.work()
            return (0, name)

        return call


def load_plan(version: str) -> tuple[Plan, Any]:
    """A plan, and the library of a version that opens it."""
    holder: dict[str, Any] = {}
    plan = Plan(lambda enum, member: getattr(getattr(holder["module"], enum), member))
    module = holder["module"] = recorded_api.load(version, plan.answers)
    return plan, module


DRIVERS = {"pycuda": simulated_cuda.install, "cuda-python": simulated_cuda.install_cuda_python}


@pytest.fixture(params=[(version, driver) for version in recorded_api.VERSIONS for driver in DRIVERS], ids="-".join)
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    version, driver = request.param
    state = DRIVERS[driver](monkeypatch)
    monkeypatch.setattr(cuda_session, "find_driver", lambda: None)
    plan, module = load_plan(version)
    engine = tmp_path / "engine.plan"
    engine.write_bytes(b"plan")
    cache = tmp_path / "runtime.cache" if version.startswith("rtx") else None
    session = CudaSession(TrtApi(module), engine, runtime_cache=cache)
    return SimpleNamespace(session=session, plan=plan, module=module, state=state, cache=cache)


def rows(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 1, (count, 3)).astype(np.float32)


def test_every_batch_size_gives_its_own_results(opened: Any) -> None:
    with opened.session as session:
        assert [(s.name, s.shape) for s in session.inputs] == [("input", (-1, 3))]
        assert [(s.name, s.shape) for s in session.outputs] == [("logits", (-1, 3))]
        for count in (4, 1, 3, 3, 3, 2):
            array = rows(count, seed=count)
            np.testing.assert_array_equal(session.run({"input": array})["logits"], array * 2)
        assert session.last_device_ms == 0.25
    assert opened.state.depth == 0, "a context was left pushed"
    assert not opened.state.addresses, "device memory was leaked"


# What a user pays is the run with its copies; what the engine costs is without them.
def test_kernels_are_timed_without_the_copies_around_them(opened: Any) -> None:
    with opened.session as session:
        copies, launches = opened.state.copies, opened.plan.launches
        assert session.device_times_ms({"input": rows(3)}, 5) == [0.25] * 5
        assert opened.state.copies - copies == 2, "the images go there once, before the clock starts"
        assert opened.plan.launches - launches == 6
        np.testing.assert_array_equal(session.run({"input": rows(3, 1)})["logits"], rows(3, 1) * 2)
    assert opened.state.depth == 0


def test_a_batch_outside_the_profile_is_refused_and_the_session_goes_on(opened: Any) -> None:
    with opened.session as session:
        for count in (0, 5):
            with pytest.raises(InputError, match="wider BATCH"):
                session.run({"input": rows(count)})
        np.testing.assert_array_equal(session.run({"input": rows(2)})["logits"], rows(2) * 2)
    assert opened.state.depth == 0


def test_closing_twice_and_running_after_is_as_everywhere(opened: Any) -> None:
    opened.session.close()
    opened.session.close()
    with pytest.raises(InputError, match="closed"):
        opened.session.run({"input": rows(1)})


def test_rtx_keeps_its_runtime_cache_and_others_have_none(opened: Any) -> None:
    opened.session.close()
    rtx = opened.module.__name__ == "tensorrt_rtx"
    assert (opened.cache is not None and opened.cache.read_bytes() == b"specialised") == rtx
    assert ("IRuntimeConfig.cuda_graph_strategy=" in opened.module.calls) == rtx


# A graph holds for one shape and one state of the context: replaying it after another shape would give old results.
def test_a_graph_is_replayed_from_the_second_run_and_dropped_with_its_shape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    simulated_cuda.install(monkeypatch)
    driver = Graphs()
    monkeypatch.setattr(cuda_session, "find_driver", lambda: driver)
    _, module = load_plan("10.16")
    (tmp_path / "engine.plan").write_bytes(b"plan")
    with CudaSession(TrtApi(module), tmp_path / "engine.plan") as session:
        driver.work = session._enqueue
        for seed in range(4):
            np.testing.assert_array_equal(session.run({"input": rows(2, seed)})["logits"], rows(2, seed) * 2)
        assert (driver.launched, driver.alive) == (3, 1)
        for seed in range(2):
            np.testing.assert_array_equal(session.run({"input": rows(3, seed)})["logits"], rows(3, seed) * 2)
        assert (driver.launched, driver.alive) == (4, 1)
    assert driver.alive == 0


# Some layers cannot be recorded; trtexec goes on without a graph as well.
@pytest.mark.parametrize("refused", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate"])
def test_a_plan_that_cannot_be_recorded_runs_without_a_graph(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: str
) -> None:
    simulated_cuda.install(monkeypatch)
    driver = Graphs(refused)
    monkeypatch.setattr(cuda_session, "find_driver", lambda: driver)
    _, module = load_plan("10.16")
    (tmp_path / "engine.plan").write_bytes(b"plan")
    with CudaSession(TrtApi(module), tmp_path / "engine.plan") as session:
        for seed in range(4):
            np.testing.assert_array_equal(session.run({"input": rows(2, seed)})["logits"], rows(2, seed) * 2)
    assert (driver.launched, driver.alive) == (0, 0)


# Whoever catches the error holds its traceback, and with it the session: its memory must be free by then.
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_plan_that_does_not_fit_into_memory_leaves_none_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str
) -> None:
    state = DRIVERS[driver](monkeypatch)
    plan, module = load_plan("10.16")
    (tmp_path / "engine.plan").write_bytes(b"plan")
    state.room = 60  # the input's 48 bytes, and not the output's
    with pytest.raises(UnavailableError, match="memory is full"):
        CudaSession(TrtApi(module), tmp_path / "engine.plan")
    plan.answers["ICudaEngine.create_execution_context"] = lambda *_: None
    with pytest.raises(UnavailableError, match="are not free"):
        CudaSession(TrtApi(module), tmp_path / "engine.plan")
    assert (state.depth, state.addresses) == (0, {})


# The kernels can be specialised again; the memory of a session that was not closed cannot be had again.
def test_a_runtime_cache_that_cannot_be_written_does_not_keep_a_session_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = simulated_cuda.install(monkeypatch)
    _, module = load_plan("rtx-1.7")
    (tmp_path / "engine.plan").write_bytes(b"plan")
    (tmp_path / "file").write_text("")
    with CudaSession(TrtApi(module), tmp_path / "engine.plan", runtime_cache=tmp_path / "file" / "cache") as session:
        session.run({"input": rows(1)})
    assert (state.depth, state.addresses) == (0, {})


# A plan without weights would answer, and wrongly: it must take those of its own graph before it is used.
@pytest.mark.parametrize("version", ["10.16", "11.4", "rtx-1.7"])
def test_a_stripped_plan_takes_the_weights_of_the_graph_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    state = simulated_cuda.install(monkeypatch)
    monkeypatch.setattr(cuda_session, "find_driver", lambda: None)
    plan, module = load_plan(version)
    given: list[bytes] = []
    plan.answers["OnnxParserRefitter.refit_from_bytes"] = lambda _, graph: not given.append(graph)
    engine = tmp_path / "engine.stripped.plan"
    engine.write_bytes(b"plan")
    with pytest.raises(InputError, match=r"deploy\.onnx, which has them, is not beside it"):
        CudaSession(TrtApi(module), engine)
    (tmp_path / "deploy.onnx").write_bytes(b"graph")
    with CudaSession(TrtApi(module), engine) as session:
        np.testing.assert_array_equal(session.run({"input": rows(2)})["logits"], rows(2) * 2)
    assert given == [b"graph"]
    assert module.calls.index("Refitter.refit_cuda_engine") < module.calls.index("IExecutionContext.set_input_shape")
    plan.answers["Refitter.refit_cuda_engine"] = lambda *_: False
    with pytest.raises(InputError, match="does not take the weights"):
        CudaSession(TrtApi(recorded_api.load(version, plan.answers)), engine)
    assert state.depth == 0


# A plan for another GPU or version: the library returns nothing, and the user must hear what to do.
@pytest.mark.parametrize("version", recorded_api.VERSIONS)
def test_a_plan_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str) -> None:
    state = simulated_cuda.install(monkeypatch)
    module = recorded_api.load(version, {"Runtime.deserialize_cuda_engine": lambda *_: None})
    (tmp_path / "engine.plan").write_bytes(b"plan")
    with pytest.raises(InputError, match="build it again here"):
        CudaSession(TrtApi(module), tmp_path / "engine.plan")
    assert state.depth == 0
