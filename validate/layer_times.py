"""Where an engine spends its time, layer by layer, as its own profiler tells it, by torch module name.

Profiling slows an engine, and fused layers stand under the name of their first node: the shares are to be trusted, the
sum is not the latency. TensorRT's profiler needs its GPU; a target without a profiler here gives an empty list.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.names import module_of
from radixrt.validate.drift_graph import LAYER_OPS
from radixrt.validate.schema import LayerTime

Array = NDArray[Any]

WARMUP = 3
# What runtimes fold into the convolution before it.
FUSED = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "QuantizeLinear", "DequantizeLinear", "Cast"})


def layer_times(
    target: str, engine: Path, feed: Array, *, deploy: ir.Model | None = None, runs: int = 20, threads: int = 0
) -> list[LayerTime]:
    """The mean time of each layer of one inference, slowest first.

    Args:
        target: the target's name.
        engine: the file that the target opens; it has one input.
        feed: the batch to run, as the engine takes it.
        deploy: the graph the engine was made from, for module names; node names stand where it is absent.
        runs: profiled runs, after three that are not counted.
        threads: threads of the runtime; 0 is its own choice.

    Returns:
        the layers; none for a target that has no profiler on this machine.

    Raises:
        InputError: the engine cannot be opened, or does not take ``feed``.
    """
    if target == "onnxruntime":
        raw = _onnxruntime(engine, feed, runs, threads)
    elif target == "openvino":
        raw = _openvino(engine, feed, runs, threads)
    else:
        return []
    modules = node_modules(deploy) if deploy is not None else {}
    merged: dict[tuple[str, str], float] = {}
    for name, op_type, ms in raw:
        key = (module_name(name, modules), op_type)
        merged[key] = merged.get(key, 0.0) + ms
    rows = [LayerTime(name=name, op_type=op_type, ms=ms) for (name, op_type), ms in merged.items()]
    return sorted(rows, key=lambda row: row.ms, reverse=True)


def node_modules(model: ir.Model) -> dict[str, str]:
    """Torch modules by what a runtime may call a layer: the node's name, or its output's.

    An output's name is what a runtime gives to the whole of a fused layer, so it stands for the layer's convolution.
    """
    by_output = {
        value.name: module_of(_multiplier(node)) for node in model.graph for value in node.outputs if value.name
    }
    return by_output | {node.name: module_of(node) for node in model.graph if node.name}


def _multiplier(node: ir.Node) -> ir.Node:
    maker: ir.Node | None = node
    while maker is not None and maker.op_type in FUSED:
        maker = maker.inputs[0].producer() if maker.inputs[0] is not None else None
    return maker if maker is not None and maker.op_type in LAYER_OPS else node


def module_name(layer: str, modules: Mapping[str, str]) -> str:
    """The module of an engine's layer: runtimes lengthen a node's name, and join those of the nodes they fuse."""
    for end in range(len(layer), 0, -1):
        # Only whole names count: conv1 is not the beginning of conv12.
        if (end == len(layer) or not layer[end].isalnum()) and layer[:end] in modules:
            return modules[layer[:end]]
    return layer


def _onnxruntime(engine: Path, feed: Array, runs: int, threads: int) -> list[tuple[str, str, float]]:
    from radixrt.engines.onnxruntime import OnnxRuntimeSession

    with (
        tempfile.TemporaryDirectory() as folder,
        OnnxRuntimeSession(engine, threads, profile_prefix=Path(folder) / "profile") as session,
    ):
        for _ in range(WARMUP + runs):
            session.run({session.inputs[0].name: feed})
        events = json.loads(session.end_profiling().read_text(encoding="utf-8"))
    seen: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            key = (name.removesuffix("_kernel_time"), str(event["args"].get("op_name", "")))
            seen.setdefault(key, []).append(float(event["dur"]) / 1000)
    return [(name, op, float(np.mean(times[WARMUP:] or times))) for (name, op), times in seen.items()]


def _openvino(engine: Path, feed: Array, runs: int, threads: int) -> list[tuple[str, str, float]]:
    from radixrt.engines.openvino import OpenVinoSession

    seen: dict[tuple[str, str], list[float]] = {}
    with OpenVinoSession(engine, threads, profile=True) as session:
        for run in range(WARMUP + runs):
            session.run({session.inputs[0].name: feed})
            if run < WARMUP:
                continue
            for layer in session.profiling():
                ms = layer.real_time.total_seconds() * 1000
                if ms > 0:
                    seen.setdefault((str(layer.node_name), str(layer.node_type)), []).append(ms)
    return [(name, op, sum(times) / runs) for (name, op), times in seen.items()]
