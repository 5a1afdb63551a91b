from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from radixrt.engines.base import BuildOptions
from radixrt.engines.cpu.onnxruntime import OnnxRuntimeTarget
from radixrt.engines.cpu.openvino import OpenVinoTarget
from radixrt.errors import UnavailableError
from radixrt.export.spec import Precision
from tests.engines.contract import EngineContract
from tests.networks import gated

pytest.importorskip("openvino")


class TestOpenVino(EngineContract):
    name = "openvino"


# The bundle copies what the build names: a missing .bin would be found out on the user's machine.
def test_the_weights_file_is_among_the_built_files(tmp_path: Path) -> None:
    built = OpenVinoTarget().build(gated.save(tmp_path), tmp_path, BuildOptions(Precision.FP32))
    assert [file.name for file in built.files] == ["engine.xml", "engine.bin"]
    assert all(file.exists() for file in built.files)


# A cache that is not asked for must not appear; one that is asked for must be used.
def test_compiled_models_are_cached_only_where_asked(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    engine = OpenVinoTarget().build(gated.save(tmp_path), tmp_path, BuildOptions(Precision.FP32)).files[0]
    before = set(tmp_path.iterdir())
    OpenVinoTarget().open(engine).close()
    assert set(tmp_path.iterdir()) == before
    OpenVinoTarget(cache).open(engine).close()
    assert list(cache.glob("*.blob")) or list(cache.rglob("*.cl_cache"))


# OpenVINO offers BF16 for what it sees in the processor, and then has no kernel for a pooling.
@pytest.mark.parametrize(("limit", "kept"), [("avx2", True), ("AVX512_CORE_VNNI", True), ("AVX512_CORE_AMX", False)])
def test_bf16_is_refused_where_onednn_may_not_use_it(limit: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    target = OpenVinoTarget()
    assert (limit.upper() in target.lacks_bf16()) == kept
    if kept:
        assert Precision.BF16 not in target.precisions()
        with pytest.raises(UnavailableError, match="ONEDNN_MAX_CPU_ISA"):
            target.check_options(BuildOptions(Precision.BF16))


def test_bf16_is_asked_for_by_the_file_and_differs_from_fp32(tmp_path: Path) -> None:
    target = OpenVinoTarget()
    if target.lacks_bf16():
        pytest.skip(target.lacks_bf16())
    image, answers = gated.images(1), {}
    for precision in (Precision.FP32, Precision.BF16):
        folder = tmp_path / precision.value
        folder.mkdir()
        built = target.build(gated.save(tmp_path), folder, BuildOptions(precision))
        assert built.facts["inference_precision"] == {"fp32": "f32", "bf16": "bf16"}[precision.value]
        # Whoever opens the file need not know what it was built with.
        with target.open(built.files[0]) as session:
            answers[precision] = session.run({"input": image})["logits"]
    error = np.abs(answers[Precision.BF16] - answers[Precision.FP32]).max()
    assert 0 < error < 0.05 * np.abs(answers[Precision.FP32]).max()


def test_bf16_is_refused_where_nothing_computes_in_it() -> None:
    with pytest.raises(UnavailableError, match="onnxruntime engines do not compute in BF16"):
        OnnxRuntimeTarget().check_options(BuildOptions(Precision.BF16))
    assert Precision.BF16 not in OnnxRuntimeTarget().precisions()
