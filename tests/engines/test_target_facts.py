"""A target owns its facts: nobody else knows one by its name, and a new one needs no change elsewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from radixrt.engines import registry
from radixrt.engines.bundle.folder import Bundle
from radixrt.validate.schema import Report
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.engines.toy import ToyTarget
from tests.photographs import write_photographs

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("export", "calibration", "engines", "validate", "radixrt")
KNOWS_NAMES = {
    # The targets themselves, and the list of them.
    "engines/cpu",
    "engines/tensorrt",
    "engines/registry.py",
    # Ship in bundles and stand alone there: they have no registry to ask.
    "engines/bundle/run_bundle.py",
    "engines/bundle/bundle_files.py",
    # A list of installed packages, one of which is called like a target.
    "radixrt/reuse.py",
}


def named_in(path: Path, names: set[str]) -> Iterator[str]:
    """Where a module spells a target's name: to compare with it, to look it up, to ask for it, or to default to it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value in names:
            yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_no_target_is_known_by_its_name_outside_its_folder_and_the_registry() -> None:
    names = {target.name for target in registry.all_targets()}
    modules = [
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not any(path.is_relative_to(ROOT / known) for known in KNOWS_NAMES)
    ]
    assert len(modules) > 150
    assert [where for path in modules for where in named_in(path, names)] == []


# A name in a comparison, a table or a prefix is found: else the count above would be zero of nothing.
@pytest.mark.parametrize(
    "line", ['x == "openvino"', 'x in ("tensorrt", "y")', '{"onnxruntime": 1}', 'x.startswith("tensorrt")']
)
def test_a_name_is_seen_in_every_place(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.engines.test_target_facts.ROOT", tmp_path)
    (tmp_path / "module.py").write_text(line)
    assert list(named_in(tmp_path / "module.py", {t.name for t in registry.all_targets()})) == ["module.py:1"]


@pytest.fixture
def toy() -> Iterator[None]:
    registry.register(ToyTarget)
    yield
    registry.unregister(ToyTarget.name)


@pytest.mark.slow
@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_target_of_ones_own_goes_through_the_whole_pipeline(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    write_photographs(tmp_path / "data")
    tiny_network(tmp_path / "tiny.onnx")
    words = ("--model", tmp_path / "tiny.onnx", "--data", tmp_path / "data", "--precision", precision)
    done = radixrt("engine", *words, "--target", "toy", "--latency-rounds", "3", "--output", tmp_path / "bundle")
    assert done.code == 0, done.err
    report = Report.read(tmp_path / "bundle" / "report.json")
    assert (report.target, report.executed, report.precision) == ("toy", True, precision)
    assert report.parity is not None and report.latency is not None
    assert report.latency.rows[0].p50_ms > 0 and report.latency.method.load_ms is not None
    with Bundle.read(tmp_path / "bundle").open() as session:
        assert [spec.name for spec in session.outputs] == ["logits"]
    done = radixrt("inspect", tmp_path / "bundle")
    assert done.code == 0 and "0 layers" in done.out, done.err
