"""``--on``: an engine is measured on a device, and its figures stand in the report and in the gates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import radixrt as rt
from radixrt.build import on_device
from radixrt.engines.bundle.folder import Bundle
from radixrt.errors import GateError, InputError, UnavailableError
from radixrt.options import CompileOptions
from radixrt.recipe import from_file
from radixrt.remote import visit
from radixrt.request import EngineRequest
from radixrt.validate.report.summary import headline
from radixrt.validate.schema import Report
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs
from tests.remote.loopback import MISSING, Loopback

sshd = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")
QUICK = {"precision": "fp32", "batch": "1..4", "latency_rounds": 10, "grouped_conv": "keep", "test_images": 12}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("network")
    tiny_network(folder / "tiny.onnx", "batch")
    (folder / "photos").mkdir()
    given = {"model": folder / "tiny.onnx", "data": write_photographs(folder / "photos"), "input_size": "3,32,32"}
    return {**QUICK, **given, "mean": "0.5", "std": "0.25"}


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    server = Loopback(tmp_path_factory.mktemp("loop")).start()
    inside = next((server.folder / "venv").glob("lib/python*/site-packages"))
    shutil.copyfile(Path(__file__).parents[1] / "remote" / "stand_in_tensorrt.py", inside / "tensorrt.py")
    (inside / "pycuda").mkdir()
    (inside / "pycuda" / "__init__.py").write_text("")
    yield server
    server.stop()


# A gate on latency is about the device that the engine is for, not about the machine that builds.
@sshd
@pytest.mark.slow
def test_the_device_s_figures_are_reported_and_judged(loop: Loopback, network: dict, tmp_path: Path) -> None:
    output, device = tmp_path / "bundle", loop.device()
    with pytest.raises(GateError, match="max_engine_bytes is"):
        rt.compile(**network, target="onnxruntime", on=device, output=output, max_engine_bytes=10)
    report = Report.read(output / "report.json")
    assert report.device == "loop" and report.executed and report.measured_on == "engine"
    assert report.parity is not None and report.parity.samples == 12 and report.parity.cosine_min > 0.9999
    assert report.latency is not None and report.latency.method.baseline == "original graph in FP32"
    assert {(row.name, row.batch) for row in report.latency.rows} >= {("engine", 1), ("engine", 4)}
    assert headline(report).title.endswith(", on loop") and report.environment["device"] == "loop (loop)"
    assert Bundle.read(output).manifest.executed


# A plan fits the GPU that it was built on: the device builds it, and the bundle gets it with what it was built for.
@sshd
@pytest.mark.slow
def test_a_plan_is_built_on_the_device_and_comes_back(
    loop: Loopback, network: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit, "TURNS", 1)
    (result,) = rt.compile(**network, target="tensorrt", on=loop.device(name="orin"), output=tmp_path / "bundle")
    manifest = result.bundle.manifest
    assert manifest.engine == "engine.plan" and manifest.executed and manifest.built_for is not None
    assert (manifest.built_for.library_version, manifest.built_for.compute_capabilities) == ("10.3.0", ("8.7",))
    assert manifest.built_for.device == "Orin"
    assert result.report.parity is not None and result.report.parity.cosine_min > 0.9999
    assert result.report.latency is not None and result.report.latency.rows[0].device_p50_ms == 0.25
    assert result.bundle.engine.read_bytes() == result.bundle.deploy.read_bytes()
    assert "nothing here measures" not in (result.bundle.path / "report.md").read_text()


# One device that is off must not cost the work for the others, and what stood there stands still.
@sshd
@pytest.mark.slow
def test_a_device_that_is_lost_leaves_the_others(
    loop: Loopback, network: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit, "TURNS", 1)
    carry_out = on_device.carry_out

    def lose(device: object, *rest: object) -> object:
        if device.name == "gone":  # type: ignore[attr-defined]
            raise UnavailableError("gone", "it stopped half-way", "Try `ssh gone`; what is done is kept.")
        return carry_out(device, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(on_device, "carry_out", lose)
    devices = [loop.device(name="gone"), loop.device(name="here")]
    with pytest.raises(UnavailableError, match=r"^gone is not available: it stopped half-way"):
        rt.compile(**network, target="onnxruntime", on=devices, output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny-fp32-onnxruntime-here"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"on": "a b"}, "'a b' is no device"),
        ({"on": "me@one,you@one"}, "two devices are called one"),
        ({"on": "one", "against": "compile"}, "--against is timed on this machine"),
        ({"on": "one", "threads": 2}, "--threads is for engines that run here"),
        ({"on": "one", "target": "fastest"}, "^what is raced must run here"),
    ],
)
def test_what_no_device_can_do_is_refused_before_anything_starts(given: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rt.compile("senet-nano-elpv", **{"target": "onnxruntime", **given})


# A recipe's devices measure unless some are named, and their ssh_config is found from where the recipe lies.
def test_a_recipe_names_its_devices(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('model = "a"\n[device.orin]\nssh = "jetson@orin-3"\nssh_config = "c"\n[device.nano]\nssh = "n"\n')
    both = EngineRequest.of(from_file(CompileOptions, recipe)).devices
    assert [(d.name, d.ssh, d.ssh_config) for d in both] == [
        ("orin", "jetson@orin-3", tmp_path / "c"),
        ("nano", "n", None),
    ]
    named = EngineRequest.of(from_file(CompileOptions, recipe, on=["nano", "me@box"])).devices
    assert [(d.name, d.ssh) for d in named] == [("nano", "n"), ("box", "me@box")]
    recipe.write_text('[device.orin]\nssh = "x"\nport = 22\n')
    with pytest.raises(InputError, match=r"in \[device\.orin\]: .*port"):
        from_file(CompileOptions, recipe)
