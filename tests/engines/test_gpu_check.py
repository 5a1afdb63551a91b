"""``make gpu-check`` as far as it goes without a GPU: what fails there must not cost the figures of the rest."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check, networks
from radixrt.engines import registry
from radixrt.engines.tensorrt.available import Gpu
from radixrt.export.spec import Precision


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_check", *words])
    with pytest.raises(SystemExit) as stop:
        gpu_check.main()
    return int(stop.value.code or 0)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: Gpu(reason="no GPU answers", hint="find one."))
    assert run(monkeypatch) == 4
    assert "no GPU answers. Find one." in capsys.readouterr().err


# Whoever has the GPU may run it once: an engine, a PyTorch or a network that fails must leave the other figures.
@pytest.mark.slow
def test_what_fails_is_written_down_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: Gpu("Some GPU", "8.6"))
    monkeypatch.setattr(gpu_check, "gpu_facts", lambda: {"driver": "1"})
    monkeypatch.setattr(gpu_check, "RESULTS", tmp_path)
    monkeypatch.setattr(registry, "runnable_targets", lambda: (registry.get("onnxruntime"),))
    build = networks.built

    def built(network: Any, precision: Precision, *more: Any) -> Any:
        if precision is Precision.INT8:
            raise RuntimeError("no kernel fits")
        return build(network, precision, *more)

    monkeypatch.setattr(networks, "built", built)
    options = ["--rounds", "10", "--seconds", "1", "--test-images", "2", "--calibration-images", "4"]
    assert run(monkeypatch, "resnest-nano-elpv", "no-such-network", *options) == 1
    written = json.loads((tmp_path / "some-gpu.json").read_text())
    assert (written["gpu"]["name"], written["gpu_after"]) == ("Some GPU", {"driver": "1"})
    found = written["networks"]["resnest-nano-elpv"]
    assert found["latency"]["rows"][0]["name"] == "onnxruntime fp16"
    assert found["parity"]["onnxruntime fp16"]["cosine_min"] > 0.99
    assert "no kernel fits" in found["failed"]["onnxruntime int8"]
    assert "no-such-network" in written["networks"]["no-such-network"]["failed"]
    assert "no kernel fits" in capsys.readouterr().out
