"""Exports small modules for tests, and runs a graph before and after a rewrite."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import nn


def randomise(module: nn.Module, seed: int = 0, gains: tuple[float, float] = (0.5, 1.5)) -> nn.Module:
    """Gives every normalisation statistics that a fold can get wrong."""
    generator = torch.Generator().manual_seed(seed)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.running_mean is not None and m.running_var is not None:
            m.running_mean.normal_(0, 0.3, generator=generator)
            m.running_var.uniform_(0.5, 1.5, generator=generator)
            if m.affine:
                m.weight.data.uniform_(*gains, generator=generator)
                m.bias.data.normal_(0, 0.3, generator=generator)
    return module.eval()


def export(
    module: nn.Module,
    size: tuple[int, ...] = (1, 3, 12, 14),
    *,
    dynamo: bool = False,
    dynamic: bool = False,
    opset: int = 18,
    gains: tuple[float, float] = (0.5, 1.5),
) -> ir.Model:
    """Exports by either exporter."""
    x = torch.randn(2 if dynamic else size[0], *size[1:])
    randomise(module, gains=gains)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if dynamic else None
            program = torch.onnx.export(
                module,
                (x,),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                verbose=False,
                input_names=["input"],
            )
            assert program is not None
            return ir.serde.deserialize_model(program.model_proto)
        buffer = io.BytesIO()
        torch.onnx.export(
            module,
            (x,),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}} if dynamic else None,
        )
    return ir.serde.deserialize_model(onnx.load_from_string(buffer.getvalue()))


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The first output of a graph."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    proto = ir.serde.serialize_model(model)
    proto.ir_version = min(proto.ir_version, 10)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def images(model: ir.Model, batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Random images of the graph's own size; ``batch`` where that is dynamic."""
    value = model.graph.inputs[0]
    assert value.shape is not None and value.name is not None
    shape = [d if isinstance(d, int) else batch for d in value.shape]
    return {value.name: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def op_types(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}
