from __future__ import annotations

import subprocess
import sys

import pytest

from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.errors import InputError
from radixrt.export.spec import Precision


def test_every_target_of_the_design_is_there_and_tells_about_itself() -> None:
    told = {target.name: target.capability() for target in registry.all_targets()}
    assert list(told) == ["tensorrt", "tensorrt-rtx", "onnxruntime", "openvino"]
    for capability in told.values():
        assert capability.runs or (capability.reason and capability.hint)
        assert capability.version or not capability.builds


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean onnxruntime"):
        registry.get("onnxruntme")
    assert registry.get(" OnnxRuntime ").name == "onnxruntime"


# auto must always leave something that was executed, whatever is installed.
def test_auto_leaves_an_engine_that_runs() -> None:
    assert any(target.capability().runs for target in registry.auto_targets())


# A plan's properties mean nothing elsewhere: an engine that silently lacks what was asked for would be found out late.
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_what_only_plans_can_be_is_refused_elsewhere(name: str) -> None:
    target = registry.get(name)
    target.check_options(BuildOptions(Precision.INT8, workspace_mb=1, builder_level=3))
    with pytest.raises(InputError, match=f"{name} has no --refit and no --strip-plan, which is for TensorRT"):
        target.check_options(BuildOptions(Precision.INT8, refit=True, strip_plan=True))


# `radixrt targets` must answer at once; importing the registry must not drag runtimes in.
def test_importing_the_registry_loads_no_runtime() -> None:
    code = (
        "import sys, radixrt.engines.registry as r; r.get('onnxruntime'); print([m for m in ('torch', "
        "'onnxruntime', 'openvino', 'tensorrt_rtx') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
