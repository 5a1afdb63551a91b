"""What a plan shows of its inside, against recorded TensorRT surfaces and a stand-in for device memory.

As in ``test_cuda_session``, no GPU has seen this. Only the marking is tried with a library that runs: TensorRT for RTX.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.base import BuildOptions, Capability
from radixrt.engines.cpu.onnxruntime import OnnxRuntimeTarget
from radixrt.engines.registry import get
from radixrt.engines.tensorrt import debug
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.available import Gpu
from radixrt.engines.tensorrt.build import build_plan
from radixrt.engines.tensorrt.debug import PlanAnalysis
from radixrt.engines.tensorrt.rtx.target import TensorRtRtxTarget
from radixrt.engines.tensorrt.session import CudaSession
from radixrt.errors import InputError, RadixRTError
from radixrt.export.passes.float16 import to_float16
from radixrt.export.spec import BatchSpec, Precision
from radixrt.validate.measure.drift import watched
from tests.engines.tensorrt import recorded_api, simulated_cuda
from tests.engines.tensorrt.test_session import Plan, rows
from tests.engines.tensorrt.test_surfaces import scenario
from tests.networks import gated
from tests.networks.chain import network

SHOWING = ("10.16", "11.4", "rtx-1.7")
OPTIONS = BuildOptions(Precision.INT8, BatchSpec(1, 4), compute_capabilities=("8.6",))


class Shown:
    """Tensors that each run shows: ``values`` on the device, ``on_host`` in host memory."""

    def __init__(self, values: dict[str, np.ndarray[Any, Any]], on_host: frozenset[str] = frozenset()) -> None:
        self.values = values
        self.on_host = on_host
        self.types = {"float32": "FLOAT", "float16": "HALF", "int8": "INT8"}
        self.listener: Any = None
        self.enabled = False
        self.module: Any = None
        self.plan = Plan(lambda enum, member: getattr(getattr(self.module, enum), member))
        execute = self.plan._execute

        def run(context: Any, stream: int) -> bool:
            kept = self.listener is None or not self.enabled or all(self._show(name) for name in self.values)
            return execute(context, stream) and kept

        def take(_: Any, listener: Any) -> bool:
            self.listener = listener
            return True

        def enable(_: Any, flag: bool) -> bool:
            self.enabled = flag
            return True

        self.answers: recorded_api.Scenario = {
            **self.plan.answers,
            "IExecutionContext.execute_async_v3": run,
            "IExecutionContext.set_debug_listener": take,
            "IExecutionContext.set_all_tensors_debug_state": enable,
        }

    def _show(self, name: str) -> bool:
        array = self.values[name]
        host = name in self.on_host
        buffer = simulated_cuda.Allocation(array.nbytes)
        assert buffer.memory is not None
        buffer.memory[:] = array.tobytes()
        copy = np.array(array)
        address = copy.ctypes.data if host else buffer.address
        ctypes.pythonapi.PyCapsule_New.restype = ctypes.py_object
        ctypes.pythonapi.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        capsule = ctypes.pythonapi.PyCapsule_New(address, None, None)
        kind = getattr(self.module.DataType, self.types.get(str(array.dtype), "BF16"))
        where = f"TensorLocation.{'HOST' if host else 'DEVICE'}"
        kept = self.listener.process_debug_tensor(capsule, where, kind, array.shape, name, simulated_cuda.Stream.handle)
        # What was shown is gone when the call is over.
        copy[...] = 0
        buffer.free()
        return bool(kept)

    def open(self, version: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> CudaSession:
        simulated_cuda.install(monkeypatch)
        self.module = recorded_api.load(version, self.answers)
        (folder / "engine.plan").write_bytes(b"plan")
        return CudaSession(TrtApi(self.module), folder / "engine.plan", use_graph=False)


def network_of(module: Any, tensors: list[str], marked: list[str]) -> recorded_api.Scenario:
    """A network of one layer per tensor, of which the last is its output."""

    def layer(_: Any, index: int) -> Any:
        made = object.__new__(module().ILayer)._made()
        made._name = tensors[index]
        return made

    def output(made: Any, index: int) -> Any:
        tensor = object.__new__(module().ITensor)._made()
        tensor.name = made._name
        return tensor

    return {
        "INetworkDefinition.num_layers": len(tensors),
        "INetworkDefinition.get_layer": layer,
        "INetworkDefinition.mark_debug": lambda _, tensor: not marked.append(tensor.name),
        "ILayer.num_outputs": 1,
        "ILayer.get_output": output,
        "ITensor.is_network_output": lambda tensor: tensor.name == tensors[-1],
    }


def build(version: str, debug_tensors: tuple[str, ...]) -> list[str]:
    marked: list[str] = []
    holder = SimpleNamespace(module=None)
    layers = network_of(lambda: holder.module, ["conv", "relu", "logits"], marked)
    holder.module = recorded_api.load(version, scenario(**layers))
    options = BuildOptions(Precision.INT8, BatchSpec(1, 4), compute_capabilities=("8.6",), debug_tensors=debug_tensors)
    build_plan(TrtApi(holder.module), gated.tiny("int8", "batch").SerializeToString(), options)
    return marked


# An output marked as well would be a question to the library that nobody needs to ask.
@pytest.mark.parametrize("version", SHOWING)
def test_a_build_marks_the_tensors_that_are_named_and_no_other(version: str) -> None:
    assert build(version, ("relu", "logits")) == ["relu"]
    assert build(version, ()) == []
    with pytest.raises(InputError, match="cannot show 1 of the tensors, 'sum'"):
        build(version, ("relu", "sum"))


@pytest.mark.parametrize("version", ["8.5", "8.6"])
def test_a_version_without_debug_tensors_says_so(version: str) -> None:
    with pytest.raises(InputError, match=r"cannot show the tensors inside a plan.*10\.0"):
        build(version, ("relu",))


@pytest.mark.parametrize("version", SHOWING)
def test_each_tensor_is_copied_while_it_is_there(version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    values = {
        "conv": random.normal(size=(2, 3, 4, 4)).astype(np.float32),
        "relu": random.normal(size=(2, 3, 4, 4)).astype(np.float16),
        "quantised": random.integers(-128, 128, (2, 3), dtype=np.int8),
        "size": np.float32(7).reshape(()),
    }
    shown = Shown(values, frozenset({"size"}))
    with shown.open(version, monkeypatch, tmp_path) as session:
        # The second run of a shape is the one that a graph would replay.
        for seed in range(3):
            found = session.debug_tensors({"input": rows(2, seed)})
            np.testing.assert_array_equal(found.pop("logits"), rows(2, seed) * 2)
            assert set(found) == set(values)
            for name, array in values.items():
                assert found[name].dtype == array.dtype
                np.testing.assert_array_equal(found[name], array)
    assert simulated_cuda.STATE.depth == 0
    assert not simulated_cuda.STATE.addresses


# An exception that passed through the library's C++ would end the process; one that was lost would give half a table.
def test_a_tensor_that_cannot_be_read_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown = Shown({"half": np.zeros((2, 2), np.uint16)})
    with (
        shown.open("10.16", monkeypatch, tmp_path) as session,
        pytest.raises(RadixRTError, match=r"could not be read \(tensor 'half' is BF16"),
    ):
        session.debug_tensors({"input": rows(2)})
    assert simulated_cuda.STATE.depth == 0


# A graph that TensorRT for RTX records by itself would replay the run and call no listener.
@pytest.mark.parametrize(("use_graph", "strategy"), [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")])
def test_rtx_records_no_graph_where_it_is_told_so(
    use_graph: bool, strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    simulated_cuda.install(monkeypatch)
    shown = Shown({})
    configs: list[Any] = []
    shown.answers["ICudaEngine.create_execution_context"] = lambda _, config: (
        configs.append(config) or object.__new__(shown.module.IExecutionContext)._made()
    )
    shown.module = recorded_api.load("rtx-1.7", shown.answers)
    (tmp_path / "engine.plan").write_bytes(b"plan")
    with CudaSession(TrtApi(shown.module), tmp_path / "engine.plan", use_graph=use_graph):
        assert str(configs[0].cuda_graph_strategy).endswith(strategy)


@pytest.mark.parametrize(("version", "target"), [("10.16", "tensorrt"), ("rtx-1.7", "tensorrt-rtx")])
def test_an_analysis_plan_shows_what_it_was_asked_for(
    version: str, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    simulated_cuda.install(monkeypatch)
    monkeypatch.setattr(debug, "find_gpu", lambda: Gpu("a card", "8.9"))
    relu = np.ones((2, 3), np.float32)
    shown = Shown({"relu": relu})
    marked: list[str] = []
    shown.answers = scenario(
        **{**shown.answers, **network_of(lambda: shown.module, ["conv", "relu", "logits"], marked)}
    )
    shown.module = recorded_api.load(version, shown.answers)
    monkeypatch.setattr(TrtApi, "load", classmethod(lambda cls, name: cls(shown.module)))
    deploy = gated.save(tmp_path, "int8", "batch")
    stripped = BuildOptions(Precision.INT8, BatchSpec(1, 4), strip_plan=True)
    plan = PlanAnalysis(Capability(target, True, True), stripped, TrtApi.load(target), deploy)
    with plan.showing(("relu", "logits")) as values:
        found = values({"input": rows(2)})
        np.testing.assert_array_equal(found["relu"], relu)
        np.testing.assert_array_equal(found["logits"], rows(2) * 2)
    assert marked == ["relu"]
    # A row made of nothing would say that the layer is exact.
    with (
        plan.showing(("conv", "relu")) as values,
        pytest.raises(InputError, match="1 of the 2 tensors that were marked, 'conv'"),
    ):
        values({"input": rows(2)})
    assert not simulated_cuda.STATE.addresses


def test_only_a_plan_that_runs_here_is_looked_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(TensorRtRtxTarget, "capability", lambda self: Capability(self.name, True, False))
    for target in (TensorRtRtxTarget(), OnnxRuntimeTarget()):
        assert target.analysis(tmp_path / "deploy.onnx", OPTIONS) is None


# The names that drift asks for must be those of the library's own parser, or no device would ever show a layer.
@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_the_real_builder_takes_every_name_that_drift_asks_for(precision: Precision) -> None:
    pytest.importorskip("tensorrt_rtx")
    reference = network()
    images = [{"input": np.random.default_rng(1).normal(size=(1, 3, 16, 16)).astype(np.float32)}]
    if precision is Precision.INT8:
        deploy, _ = place(
            reference,
            calibrate(reference, images, threads=1),
            PlacementOptions(get("tensorrt").traits, first=Ends.INT8),
        )
    else:
        deploy = to_float16(reference).model
    names = watched(reference, deploy)
    assert len(names) == (7 if precision is Precision.FP16 else 12), "layers, and in INT8 what is quantised before them"
    options = BuildOptions(precision, BatchSpec(1, 1), compute_capabilities=("8.6",))
    data = ir.to_proto(deploy).SerializeToString()
    api = TrtApi.load("tensorrt_rtx")
    marked = build_plan(api, data, replace(options, debug_tensors=names))
    plain = build_plan(api, data, options)
    assert marked.data != plain.data
