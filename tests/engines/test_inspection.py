from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.tensorrt.inspect import layers_of
from radixrt.engines.tensorrt.rtx.plan_cost import Kernel, KernelTensor, PlanCost
from radixrt.engines.tensorrt.rtx.roofline import DEVICES, Device, devices_for, estimate, find_device
from radixrt.errors import InputError
from radixrt.export.spec import Precision
from tests.networks import gated

# Torch's names as the exporter leaves them.
MODULES = {"/net/conv": "stem.conv", "/net/relu": "stem.act", "/net/gate": "attn.fc", "/net/logits": "head.fc"}


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    model = gated.tiny("fp32")
    for node in model.graph.node:
        if node.name in MODULES:
            scopes = node.metadata_props.add()
            scopes.key, scopes.value = "pkg.torch.onnx.name_scopes", f"['', '{MODULES[node.name]}', 'op']"
    path = tmp_path / "deploy.onnx"
    onnx.save(model, path)
    return path


# The reader knows torch modules; an engine's fused and renamed layers must lead back to them.
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_layers_are_timed_and_lead_back_to_torch(target: str, deploy: Path, tmp_path: Path) -> None:
    options = BuildOptions(Precision.FP32, threads=1)
    if not registry.get(target).capability().runs:
        pytest.skip(f"{target} does not run here")
    engine = registry.get(target).build(deploy, tmp_path, options).files[0]
    seen = registry.get(target).inspect(engine, deploy, options, runs=5)
    assert seen.measured
    assert seen.kernels == len(seen.rows) > 3
    assert seen.total_us == pytest.approx(sum(row.mean_us or 0 for row in seen.rows))
    assert seen.total_us > 0
    origins = {module for row in seen.rows for module in row.origin}
    assert {"stem.conv", "attn.fc", "head.fc"} <= origins
    assert all(row.precision for row in seen.rows if row.kind in ("Conv", "Convolution", "Gemm", "FullyConnected"))


def test_an_rtx_plan_shows_kernels_and_calls_its_times_estimates(deploy: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    target = registry.get("tensorrt-rtx")
    if target.capability().runs:
        pytest.skip("an RTX GPU is here")
    options = BuildOptions(Precision.FP32, compute_capabilities=("8.6",))
    engine = target.build(deploy, tmp_path, options).files[0]
    seen = target.inspect(engine, deploy, options)
    assert not seen.measured
    assert seen.total_us is None
    assert all(row.mean_us is None for row in seen.rows)
    assert {e.device for e in seen.estimates} == {"RTX A6000"}
    assert seen.macs == 32 * 16 * 16 * 27 + 32 * 32 + gated.CLASSES * 32
    assert "stem.conv" in {module for row in seen.rows for module in row.origin}
    assert any("estimate" in note for note in seen.notes)
    one = target.inspect(engine, deploy, options, devices=("RTX 4090",))
    assert [e.device for e in one.estimates] == ["RTX 4090"]


def kernel(dtype: str, moved: int, macs: int) -> Kernel:
    tensor = KernelTensor(name="x", dtype=dtype, shape=(moved,), bytes=moved)
    return Kernel(name="k", kind="gemm", inputs=(tensor,), constants=(), outputs=(), nodes=(), macs=macs)


# A device of 1 GB/s and 1 TFLOPS: a kernel takes the longer of its two times, and kernels add up.
def test_a_roofline_is_the_longer_of_moving_and_computing() -> None:
    device = Device("unit", "0.0", bandwidth_gb_s=1, fp32_tflops=1, fp16_tflops=2, int8_tops=4, source="made up")
    memory, compute = kernel("Half", 3_000, 10), kernel("Half", 1, 4_000_000)
    assert estimate(PlanCost(rows=(memory,)), device).total_us == pytest.approx(3.0)
    assert estimate(PlanCost(rows=(compute,)), device).total_us == pytest.approx(4.0)
    both = estimate(PlanCost(rows=(memory, compute)), device)
    assert both.total_us == pytest.approx(7.0)
    assert both.memory_bound_share == pytest.approx(3 / 7)
    assert estimate(PlanCost(rows=(kernel("Int8", 1, 4_000_000),)), device).total_us == pytest.approx(2.0)
    assert estimate(PlanCost(rows=(kernel("Float", 1, 4_000_000),)), device).total_us == pytest.approx(8.0)


# Sparse rates are twice the dense ones, and FP16 with FP16 accumulation is too: a slip would show here.
def test_the_table_holds_dense_rates_only() -> None:
    for device in DEVICES:
        assert 1.9 <= device.int8_tops / device.fp16_tflops <= 4.1, device.name
        # A rate from nowhere makes an estimate of nothing.
        assert device.source.startswith("NVIDIA "), device.name
    assert len({device.name for device in DEVICES}) == len(DEVICES)
    assert {device.name for device in devices_for(("8.9",))} == {"RTX 4090", "L4"}
    with pytest.raises(InputError, match="RTX 4090"):
        find_device("RTX 4900")


# 8.x gives names or objects; 11 gives objects with other keys. Neither may end the inspection.
def test_both_shapes_of_the_inspector_are_read() -> None:
    assert layers_of('{"Layers": ["conv1 + relu1"]}') == {"conv1 + relu1": ("", "", ())}
    detailed = (
        '{"Layers": [{"Name": "k0", "LayerType": "gemm", "Outputs": [{"Name": "y", "Format/Datatype": "FP16 NHWC"}], '
        '"Metadata": "[ONNX Layer: /net/conv][ONNX Layer: /net/relu]"}]}'
    )
    assert layers_of(detailed) == {"k0": ("gemm", "FP16 NHWC", ("/net/conv", "/net/relu"))}
    assert layers_of('{"Layers": [{"Name": "k0", "Outputs": [{"Datatype": "Half"}]}]}') == {"k0": ("", "Half", ())}
