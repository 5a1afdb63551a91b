"""The classic target, as far as it goes without a GPU: what it keeps between builds, held against a recorded API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from radixrt.engines.base import BuildOptions, Capability
from radixrt.engines.tensorrt import target as tensorrt
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.available import Gpu
from radixrt.engines.tensorrt.target import TensorRtTarget
from radixrt.export.spec import Precision
from tests.engines.tensorrt import recorded_api
from tests.networks import gated

ORIN = Gpu("Orin (nvgpu)", "8.7")


class Here:
    """A machine with one library and one GPU, which answers a build with the timings that it was given and one more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[bytes] = []
        self._patch = monkeypatch

    def has(self, version: str, gpu: Gpu) -> TensorRtTarget:
        self.answers: recorded_api.Scenario = {
            "INetworkDefinition.num_inputs": 0,
            "Builder.build_serialized_network": lambda *_: b"plan",
            "IBuilderConfig.create_timing_cache": self._create,
            "ITimingCache.serialize": lambda *_: self.given[-1] + b"+",
        }
        self.module: Any = recorded_api.load(version, self.answers)
        self._patch.setattr(TrtApi, "load", classmethod(lambda cls, name: cls(self.module)))
        self._patch.setattr(tensorrt, "find_gpu", lambda: gpu)
        library = Capability("tensorrt", True, False, self.module.__version__)
        self._patch.setattr(tensorrt, "library_here", lambda *_: library)
        return TensorRtTarget()

    def _create(self, config: Any, known: bytes) -> Any:
        self.given.append(known)
        return object.__new__(self.module.ITimingCache)._made()


# Timings of another device or version would choose its kernels: slow at best.
def test_timings_are_kept_for_one_device_and_one_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here, deploy = Here(monkeypatch), gated.save(tmp_path, "fp16")
    options = BuildOptions(Precision.FP16, cache_dir=tmp_path / "devices")
    for version, gpu in (
        ("10.16", ORIN),
        ("10.16", ORIN),
        ("8.6", ORIN),
        ("10.16", Gpu("RTX", "8.9")),
        ("10.16", ORIN),
    ):
        built = here.has(version, gpu).build(deploy, tmp_path, options)
        assert built.facts["timing_cache"] == ("reused" if here.given[-1] else "new")
    assert here.given == [b"", b"+", b"", b"", b"++"]
    assert len(list((tmp_path / "devices").iterdir())) == 3
    here.has("10.16", ORIN).build(deploy, tmp_path, BuildOptions(Precision.FP16))
    assert len(here.given) == 5, "timings were kept where nobody said where"


# A cache that was cut short by a power cut would be read, refused and written again at every build.
def test_timings_that_the_library_refuses_are_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here, deploy = Here(monkeypatch), gated.save(tmp_path, "fp16")
    options = BuildOptions(Precision.FP16, cache_dir=tmp_path / "devices")
    target = here.has("10.16", ORIN)
    target.build(deploy, tmp_path, options)
    (kept,) = (tmp_path / "devices").iterdir()
    kept.write_bytes(b"half")
    here.answers["IBuilderConfig.set_timing_cache"] = lambda *_: here.given[-1] != b"half"
    target.build(deploy, tmp_path, options)
    assert (here.given[-2:], kept.read_bytes()) == ([b"half", b""], b"+")


# The plan took minutes; the timings only save some of them next time.
def test_timings_that_cannot_be_kept_do_not_cost_the_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "devices").write_text("a file is where the folder should be")
    options = BuildOptions(Precision.FP16, cache_dir=tmp_path / "devices")
    built = Here(monkeypatch).has("10.16", ORIN).build(gated.save(tmp_path, "fp16"), tmp_path, options)
    assert built.files[0].read_bytes() == b"plan"


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Here(monkeypatch).has("10.16", Gpu(reason="no NVIDIA GPU answers here", hint="Find one."))
    can = target.capability()
    assert (can.builds, can.runs, can.version) == (False, False, "10.16.1.11")
    assert can.reason and can.hint
