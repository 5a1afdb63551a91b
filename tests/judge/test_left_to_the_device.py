"""``TARGET=tensorrt`` without TensorRT: a bundle with its graphs and no plan, which every command takes for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.registry import get
from radixrt.errors import InputError, UnavailableError
from radixrt.export.passes.float32 import to_float32
from radixrt.validate.schema import Report
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(get("tensorrt").capability().builds, reason="TensorRT and a GPU are here: a plan is built"),
]


def three_convolutions(path: Path) -> Path:
    """Three convolutions and a classifier of four, of which INT8 takes what is neither the first nor the last."""
    random = np.random.default_rng(0)
    shapes = {"w0": (32, 3, 3, 3), "w1": (32, 32, 3, 3), "w2": (32, 32, 3, 3), "fc": (4, 32)}
    weights = [
        numpy_helper.from_array(random.normal(0, 0.2, shape).astype(np.float32), n) for n, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc"], ["logits"], transB=1),
    ]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4]),
    ]
    graph = helper.make_graph(nodes, "three", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    network = three_convolutions(folder / "three.onnx")
    words = ("--target", "tensorrt", "--precision", "int8", "--data", data)
    done = radixrt("engine", network, *words, "--min-cosine", "0.9", "-o", folder / "bundle")
    assert done.code == 0, done.err
    assert done.err.startswith("No tensorrt plan is built here (")
    assert "Graph made here, to be built on the device; its CPU stand-in kept 2 gates" in done.out
    return folder / "bundle"


def test_the_bundle_has_everything_but_the_plan(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert {"deploy.onnx", "deploy-trt8.onnx", "calibration.json", "report.json", "run.py", "pixels.py"} <= names
    assert not [name for name in names if name.startswith("engine")]
    content = json.loads((bundle / "manifest.json").read_text())
    assert (content["engine"], content["built_for"], content["executed"]) == (None, None, False)
    report = Report.read(bundle / "report.json")
    assert not report.built and report.parity is not None and report.latency is None
    assert any(note.startswith("No engine was built here") for note in report.notes)


def test_the_graph_for_8_has_its_weights_behind_q_and_dq(bundle: Path) -> None:
    model = onnx.load(bundle / "deploy-trt8.onnx")
    onnx.checker.check_model(model, full_check=True)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert model.opset_import[0].version == 17 and TensorProto.FLOAT16 not in constants.values()
    layers = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in makers]
    quantization = Report.read(bundle / "report.json").quantization
    assert quantization is not None and len(layers) == quantization.quantized > 0
    for layer in layers:
        dequantise = makers[layer.input[1]]
        quantise = makers[dequantise.input[0]]
        assert (dequantise.op_type, quantise.op_type) == ("DequantizeLinear", "QuantizeLinear")
        assert constants[quantise.input[0]] == constants[quantise.input[1]] == TensorProto.FLOAT


# The graph for 8.x keeps FP16 values in FP32; beside the deploy graph in FP32 no number may differ.
def test_both_graphs_compute_the_same(bundle: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    images = np.random.default_rng(1).normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    typed = ir.to_proto(to_float32(ir.load(bundle / "deploy.onnx"))).SerializeToString()
    new, old = (
        onnxruntime.InferenceSession(graph, options).run(None, {"input": images})[0]
        for graph in (typed, (bundle / "deploy-trt8.onnx").read_bytes())
    )
    np.testing.assert_array_equal(new, old)


def test_it_is_judged_again_by_its_graph(bundle: Path, data: Path, tmp_path: Path) -> None:
    done = radixrt("validate", bundle, "--data", data, "-o", tmp_path / "again")
    assert done.code == 0 and "Graph made here, to be built on the device" in done.out, done.err
    assert not Report.read(tmp_path / "again" / "report.json").built


def test_it_stands_beside_others(bundle: Path, tmp_path: Path) -> None:
    assert radixrt("compare", bundle, bundle, "-o", tmp_path / "page.html").code == 0
    assert "none yet" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("command", ["run", "inspect", "bundle"])
def test_what_needs_the_plan_says_that_there_is_none(command: str, bundle: Path, data: Path, tmp_path: Path) -> None:
    words = {"run": (data,), "inspect": (), "bundle": ("--triton", tmp_path / "models")}[command]
    done = radixrt(command, bundle, *words)
    assert done.code == 4 and "its engine is left to the device" in done.sentence
    assert "run.py --build" in done.sentence and not (tmp_path / "models").exists()


def test_python_is_told_too(bundle: Path) -> None:
    with pytest.raises(UnavailableError, match="left to the device"):
        Bundle.read(bundle).open()


def test_the_runner_says_what_to_do_and_runs_the_graph_on_a_cpu(bundle: Path, data: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(bundle / "run.py"), *words, str(data / "ash")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run("--json", "--runtime", "onnxruntime")
    assert done.returncode == 0 and len(json.loads(done.stdout)["results"]) == 10, done.stderr
    done = run()
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)


def test_properties_of_a_plan_that_is_not_built_are_refused(tmp_path: Path) -> None:
    tiny_network(tmp_path / "tiny.onnx")
    done = radixrt("engine", tmp_path / "tiny.onnx", "--target", "tensorrt", "--refit", "-o", tmp_path / "bundle")
    assert done.code == 2 and "tensorrt builds no plan here" in done.sentence and "--refit" in done.sentence


# `radixrt build` makes an engine and nothing else: without one there is nothing to leave.
def test_a_build_of_an_engine_alone_is_still_refused(tmp_path: Path) -> None:
    tiny_network(tmp_path / "tiny.onnx")
    done = radixrt("build", tmp_path / "tiny.onnx", "--target", "tensorrt", "-p", "fp32", "-o", tmp_path / "out")
    assert done.code == 4 and "tensorrt is not available" in done.sentence


def test_the_list_of_targets_says_where_the_plan_is_built() -> None:
    assert "graph here, plan on the device" in " ".join(radixrt("targets").out.split())


def test_the_target_itself_builds_nothing(tmp_path: Path) -> None:
    can = get("tensorrt").capability()
    assert (can.builds, can.runs, can.graph, can.on_device) == (False, False, True, True)
    with pytest.raises(InputError, match="inspected where it runs"):
        get("tensorrt").inspect(tmp_path, tmp_path, None)  # type: ignore[arg-type]
