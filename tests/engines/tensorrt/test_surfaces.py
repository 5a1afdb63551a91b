"""The adaptor against the recorded API of TensorRT 8.5, 8.6, 10.16, 11.4 and RTX.

No library that could run is needed: what is tested is that every call that the adaptor makes exists in that version
with that form. ``record_surface.py`` says how the surfaces were recorded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from radixrt.engines.base import BuildOptions
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.build import build_plan, check_options, plan_name
from radixrt.engines.tensorrt.legacy_graph import for_version
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Precision
from tests.engines.tensorrt import recorded_api
from tests.networks import gated

CLASSIC = ("8.5", "8.6", "10.16", "11.4")


def scenario(**more: Any) -> recorded_api.Scenario:
    """A parser that reads a network with one image input of open batch, and a builder that builds it."""
    return {
        "INetworkDefinition.num_inputs": 1,
        "ITensor.shape": (-1, 3, 16, 16),
        "ITensor.name": "input",
        "Builder.build_serialized_network": lambda *_: b"plan",
        "ITimingCache.serialize": lambda *_: b"timings",
        "Builder.num_DLA_cores": 2,
        **more,
    }


def api(version: str, **more: Any) -> TrtApi:
    return TrtApi(recorded_api.load(version, scenario(**more)))


def options(**more: Any) -> BuildOptions:
    return BuildOptions(
        **{"precision": Precision.INT8, "batch": BatchSpec(1, 32), "compute_capabilities": ("8.6",), **more}
    )


# A member that is missing in one version would only be found on a customer's Jetson.
@pytest.mark.parametrize("version", recorded_api.VERSIONS)
def test_a_build_makes_only_calls_that_the_version_has(version: str) -> None:
    library = api(version)
    progress: list[str] = []
    plan = build_plan(
        library,
        gated.tiny("int8", "batch").SerializeToString(),
        options(workspace_mb=256),
        timing_cache=b"" if not library.rtx else None,
        progress=lambda phase, done, total: not progress.append(phase),
    )
    assert plan.data == b"plan"
    assert "IOptimizationProfile.set_shape" in library.trt.calls
    assert "IBuilderConfig.add_optimization_profile" in library.trt.calls
    assert plan.timing_cache == (b"timings" if not library.rtx else b"")


# Precision flags were removed in 11 and fight the types from 10 on; without them 8.x would build FP32.
@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("8.5", {"FP16", "INT8"}),
        ("8.6", {"FP16", "INT8"}),
        ("10.16", set()),
        ("11.4", set()),
        ("rtx-1.7", set()),
    ],
)
def test_precision_flags_are_set_on_8_only(version: str, flags: set[str]) -> None:
    seen: set[str] = set()
    library = api(version, **{"IBuilderConfig.set_flag": lambda _, flag: seen.add(flag.name)})
    build_plan(library, gated.tiny("int8", "batch").SerializeToString(), options())
    assert seen == flags


# Bit 1 is EXPLICIT_PRECISION in 8.5 and STRONGLY_TYPED in 10: a literal would ask for the wrong thing.
@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("8.5", "EXPLICIT_BATCH"),
        ("8.6", "EXPLICIT_BATCH"),
        ("10.16", "STRONGLY_TYPED"),
        ("11.4", "STRONGLY_TYPED"),
        ("rtx-1.7", "STRONGLY_TYPED"),
    ],
)
def test_the_network_flag_is_taken_from_the_enum(version: str, name: str) -> None:
    seen: list[int] = []

    def create(builder: Any, flags: int) -> Any:
        seen.append(flags)
        return object.__new__(library.trt.INetworkDefinition)._made()

    library = api(version, **{"Builder.create_network": create})
    library.network(library.trt.Builder(library.logger(lambda severity, text: None)))
    assert seen == [1 << int(getattr(library.trt.NetworkDefinitionCreationFlag, name))]


# A plan is data: whoever made it must not get code run by its being opened.
@pytest.mark.parametrize("version", recorded_api.VERSIONS)
def test_host_code_is_never_allowed(version: str) -> None:
    library = api(version)
    runtime = library.runtime(library.logger(lambda severity, text: None))
    assert not library.trt.calls.count("Runtime.engine_host_code_allowed=") or runtime.engine_host_code_allowed is False
    assert hasattr(library.trt.Runtime, "engine_host_code_allowed") == (version != "8.5")


@pytest.mark.parametrize(
    ("version", "asked", "said"),
    [
        ("8.5", {"version_compatible": True}, "cannot make version-compatible plans"),
        ("8.5", {"hardware_compatible": True}, "cannot make hardware-compatible plans"),
        ("8.5", {"strip_plan": True}, "cannot make plans without weights"),
        ("8.6", {"strip_plan": True}, "cannot make plans without weights"),
        ("8.5", {"builder_level": 5}, "no builder levels"),
        ("10.16", {"dla_core": 2}, "DLA core 2 is not there"),
        ("10.16", {"dla_core": 0, "batch": BatchSpec(1, 8)}, "a DLA core takes one batch size"),
        ("8.6", {"dla_core": 0, "precision": Precision.FP32}, "at fp16 or int8"),
        ("rtx-1.7", {"dla_core": 0}, "DLA core 0 is not there"),
        ("rtx-1.7", {"hardware_compatible": True}, "use compute capabilities"),
        ("rtx-1.7", {"compute_capabilities": ("9.0",)}, "choose from 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"),
    ],
)
def test_what_a_library_lacks_is_said_in_a_sentence(version: str, asked: dict[str, Any], said: str) -> None:
    asked = {"batch": BatchSpec(), **asked}
    with pytest.raises(InputError, match=said):
        build_plan(api(version), gated.tiny("fp32", "batch").SerializeToString(), options(**asked))
    # The same before anything long starts, without a graph.
    with pytest.raises(InputError, match=said):
        check_options(api(version), options(**asked))


@pytest.mark.parametrize("version", ["8.6", "10.16", "11.4"])
def test_every_option_is_a_call_that_newer_versions_have(version: str) -> None:
    strip = version != "8.6"
    every = options(
        version_compatible=True,
        hardware_compatible=True,
        refit=True,
        strip_plan=strip,
        builder_level=5,
        dla_core=1,
        batch=BatchSpec(),
    )
    check_options(api(version), every)
    assert build_plan(api(version), gated.tiny("fp32", "batch").SerializeToString(), every).data == b"plan"


# What only one version has must not be asked of it by a build that does not want it, nor be forgotten by one that does.
@pytest.mark.parametrize("version", recorded_api.VERSIONS)
def test_a_refittable_plan_sets_its_flag_and_no_other(version: str) -> None:
    seen: set[str] = set()
    library = api(version, **{"IBuilderConfig.set_flag": lambda _, flag: seen.add(flag.name)})
    build_plan(library, gated.tiny("fp32", "batch").SerializeToString(), options(refit=True))
    assert seen - {"FP16", "INT8"} == {"REFIT"}


def test_a_plan_without_weights_says_so_in_its_name() -> None:
    assert plan_name(options(strip_plan=True)) == "engine.stripped.plan"
    assert plan_name(options()) == "engine.plan"


# A caller that wants to stop must not be told that the graph cannot be built.
def test_a_build_that_progress_stops_is_called_stopped() -> None:
    def build(builder: Any, network: Any, config: Any) -> None:
        config._set["progress_monitor"].phase_start("Timing", None, 3)
        assert config._set["progress_monitor"].step_complete("Timing", 0) is False

    library = api("10.16", **{"Builder.build_serialized_network": build})
    with pytest.raises(InputError, match="was stopped"):
        build_plan(library, gated.tiny("fp32").SerializeToString(), options(), progress=lambda *_: False)


# The user knows torch modules, not the builder's tensor numbers.
@pytest.mark.parametrize("version", recorded_api.VERSIONS)
def test_a_parser_error_names_the_torch_module_and_a_way_out(version: str) -> None:
    model = gated.tiny("fp32")
    node = model.graph.node[0]
    entry = node.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'layer1', 'layer1.0.conv2', 'conv2d']"
    library = api(
        version,
        **{
            "OnnxParser.parse": lambda *_: False,
            "OnnxParser.num_errors": 2,
            "ParserError.node": lambda *_: 0,
            "ParserError.node_name": lambda *_: node.name,
            "ParserError.desc": lambda *_: "Unsupported thing.",
        },
    )
    said = r"does not take Conv at 'layer1\.0\.conv2' \(and 1 more\).*Unsupported thing.*TARGET"
    with pytest.raises(InputError, match=said):
        build_plan(library, model.SerializeToString(), options())


def test_a_build_that_fails_says_what_the_builder_said() -> None:
    library = api("10.16", **{"Builder.build_serialized_network": lambda *_: None})
    with pytest.raises(InputError, match="try another precision"):
        build_plan(library, gated.tiny("fp32", "batch").SerializeToString(), options())


# An open image size that nobody gave a range has no place in a profile, and would fail in the builder with a riddle.
def test_an_open_image_size_is_refused() -> None:
    with pytest.raises(InputError, match="nobody said what its sides may be"):
        build_plan(
            api("10.16", **{"ITensor.shape": (-1, 3, -1, -1)}), gated.tiny("fp32").SerializeToString(), options()
        )


# TensorRT 8.x reads opset 17 and FP32 scales; later versions get the typed graph untouched.
@pytest.mark.parametrize("version", CLASSIC)
def test_each_version_gets_a_graph_that_it_reads(version: str, tmp_path: Path) -> None:
    model = gated.tiny("fp16")
    model.opset_import[0].version = 18
    deploy = tmp_path / "deploy.onnx"
    onnx.save(model, deploy)
    given = onnx.load_from_string(for_version(deploy, api(version)))
    onnx.checker.check_model(given, full_check=True)
    halves = [w.name for w in given.graph.initializer if w.data_type == onnx.TensorProto.FLOAT16]
    if version.startswith("8."):
        assert given.opset_import[0].version == 17
        assert not halves
    else:
        assert deploy.read_bytes() == for_version(deploy, api(version))
        assert halves
