"""What an engine is timed against runs with the engine's threads, and an ONNX file as its runtime runs it best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.engines.cpu.onnxruntime import OnnxRuntimeTarget
from radixrt.engines.session import Session
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.prepare.reference import onnx_reference, torch_reference
from tests.engines.bundle.bundles import tiny_network

IMAGES = {"input": np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)}


def test_pytorch_takes_the_threads_only_while_it_is_timed() -> None:
    torch = pytest.importorskip("torch")
    seen: list[int] = []

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: Any) -> Any:
            seen.append(torch.get_num_threads())
            return images.mean((2, 3))

    before = torch.get_num_threads()
    reference = torch_reference(Net(), ModuleInputs.image((3, 32, 32)), None, lambda: None)
    with reference.timed(before + 1) as run:
        run(IMAGES)
    with reference.timed(0) as run:
        run(IMAGES)
    assert seen == [before + 1, before] and torch.get_num_threads() == before


@pytest.mark.parametrize("batch", ["batch", 2])
def test_an_onnx_original_is_timed_as_an_engine_of_it(
    batch: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_network(tmp_path / "tiny.onnx", batch)
    reference = onnx_reference(ir.load(tmp_path / "tiny.onnx"))
    opened: list[int] = []

    def opening(self: OnnxRuntimeTarget, engine: Path, threads: int) -> Session:
        opened.append(threads)
        return real(self, engine, threads)

    real = OnnxRuntimeTarget._open
    monkeypatch.setattr(OnnxRuntimeTarget, "_open", opening)
    expected = reference.run(IMAGES)["logits"]
    assert opened == [], "answers are those of the graph as it stands"
    with reference.timed(1) as run:
        np.testing.assert_allclose(run(IMAGES)["logits"], expected, rtol=1e-5, atol=1e-6)
    assert opened == [1]
