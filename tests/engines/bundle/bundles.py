"""Small bundles that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from radixrt.calibration.data.preprocess import Preprocess
from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.engines.bundle.manifest import BuiltFor, Manifest, ModelIdentity, TensorInfo

CLASSES = 4
SIZE = 32


def tiny_network(path: Path, batch: int | str = 1) -> None:
    """Mean colour, then a linear layer: an ONNX file that any runtime of the last years opens."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        [
            numpy_helper.from_array(rng.normal(size=(3, CLASSES)).astype(np.float32), "weight"),
            numpy_helper.from_array(rng.normal(size=CLASSES).astype(np.float32), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def manifest(
    *,
    name: str = "tiny",
    target: str = "onnxruntime",
    batch: tuple[int, int] = (1, 1),
    built_for: BuiltFor | None = None,
    engine: str = "engine.onnx",
) -> Manifest:
    dim = batch[0] if batch[0] == batch[1] else -1
    return Manifest(
        created="2026-01-01T00:00:00+00:00",
        radixrt="0.1.0",
        libraries={"numpy": np.__version__},
        model=ModelIdentity(name=name, source="a test", weights="random", parameters=16),
        precision="fp32",
        target=target,
        batch=batch,
        built_for=built_for,
        executed=True,
        inputs=(TensorInfo(name="input", dtype="float32", shape=(dim, 3, SIZE, SIZE)),),
        outputs=(TensorInfo(name="logits", dtype="float32", shape=(dim, CLASSES)),),
        preprocessing=Preprocess(input_size=(3, SIZE, SIZE), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), crop_pct=0.9),
        labels=("ash", "beech", "cedar", "dogwood"),
        engine=engine,
    )


def write_bundle(output: Path, batch: tuple[int, int] = (1, 1), sign_key: Path | None = None) -> Bundle:
    """A finished bundle of the tiny network for ONNX Runtime."""
    with BundleWriter(output) as writer:
        tiny_network(writer.folder / "deploy.onnx", batch[0] if batch[0] == batch[1] else "batch")
        (writer.folder / "engine.onnx").write_bytes((writer.folder / "deploy.onnx").read_bytes())
        (writer.folder / "report.json").write_text("{}\n")
        return writer.finish(manifest(batch=batch), sign_key=sign_key)
