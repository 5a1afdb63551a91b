"""Layers and their times of ONNX Runtime and OpenVINO engines, from the runtimes' own profiles."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from radixrt.engines.base import BuildOptions
from radixrt.engines.cpu.onnxruntime import OnnxRuntimeSession
from radixrt.engines.cpu.openvino import OpenVinoSession
from radixrt.engines.inspection import LayerRow, noise
from radixrt.engines.layer_origin import Origins

# The first runs allocate and settle; they are not counted.
_WARM_UP = 3


def onnxruntime_layers(engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
    """Profiles an ONNX Runtime engine. Bytes are those of its activations, weights and results."""
    with tempfile.TemporaryDirectory() as folder:
        session = OnnxRuntimeSession(engine, options.threads, profile_prefix=Path(folder) / "profile")
        with session:
            feeds = noise(session, options)
            for _ in range(_WARM_UP + runs):
                session.run(feeds)
            events = json.loads(session.end_profiling().read_text())
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    passes = _WARM_UP + runs
    per_run = len(kernels) // passes
    rows = []
    for position in range(per_run):
        seen = kernels[position + _WARM_UP * per_run :: per_run]
        arguments = seen[0]["args"]
        name = seen[0]["name"].removesuffix("_kernel_time")
        sizes = [int(arguments.get(key) or 0) for key in ("activation_size", "parameter_size", "output_size")]
        rows.append(
            LayerRow(
                name=name,
                kind=arguments["op_name"],
                precision=_onnxruntime_precision(arguments),
                origin=origins.of((name,)),
                mean_us=sum(event["dur"] for event in seen) / len(seen),
                bytes_moved=sum(sizes),
            )
        )
    return tuple(rows)


def openvino_layers(engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
    """Profiles an OpenVINO engine. What OpenVINO optimised away is left out."""
    with OpenVinoSession(engine, options.threads, profile=True) as session:
        feeds = noise(session, options)
        for _ in range(_WARM_UP):
            session.run(feeds)
        times: dict[str, float] = {}
        for _ in range(runs):
            session.run(feeds)
            for record in session.profiling():
                times[record.node_name] = times.get(record.node_name, 0.0) + record.real_time.total_seconds()
        executed = {r.node_name: r for r in session.profiling() if "EXECUTED" in str(r.status)}
        labels = session.original_names()
    return tuple(
        LayerRow(
            name=name,
            kind=record.node_type,
            precision=record.exec_type.rsplit("_", 1)[-1].lower(),
            origin=origins.of((name, *labels.get(name, ()))),
            mean_us=1e6 * times[name] / runs,
        )
        for name, record in executed.items()
        if record.node_type not in ("Parameter", "Result", "Constant")
    )


def _onnxruntime_precision(arguments: dict[str, Any]) -> str:
    """The type of the first input, which is what the kernel was chosen by."""
    for tensor in arguments.get("input_type_shape", ()):
        return str(next(iter(tensor)))
    return ""
