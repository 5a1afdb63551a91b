from __future__ import annotations

from pathlib import Path

import pytest

from radixrt.engines.base import BuildOptions
from radixrt.engines.cpu.openvino import OpenVinoTarget
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
