"""What is inside a TensorRT plan: layers and times where it runs, kernels and estimates where it does not.

Layers and times are from TensorRT's own inspector and profiler, for 8.5 to 11 and for RTX; not executed where this was
written: there is no GPU there. The inspector's JSON changed in 11, so only what all versions give is read: a list
``Layers`` of names, or of objects with a name, a type and metadata.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from radixrt.engines.base import BuildOptions
from radixrt.engines.inspection import Estimate, Inspection, LayerRow
from radixrt.engines.layer_origin import Origins
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.plan_cost import PlanCost
from radixrt.engines.tensorrt.roofline import Device
from radixrt.engines.tensorrt.session import CudaSession

_WARM_UP = 3


def plan_layers(api: TrtApi, engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
    """Profiles a plan on the GPU that is here."""
    # A captured graph hides its layers from the profiler.
    with CudaSession(api, engine, use_graph=False) as session:
        described = layers_of(session.describe())
        random = np.random.default_rng(0)
        feeds = {
            spec.name: random.normal(0, 1, [options.batch.max if dim == -1 else dim for dim in spec.shape]).astype(
                spec.dtype
            )
            for spec in session.inputs
        }
        for _ in range(_WARM_UP):
            session.run(feeds)
        times: dict[str, float] = {}
        with session.profiled(lambda name, ms: times.__setitem__(name, times.get(name, 0.0) + ms)):
            for _ in range(runs):
                session.run(feeds)
    rows = []
    for name, total_ms in times.items():
        kind, precision, nodes = described.get(name, ("", "", ()))
        origin = origins.of(nodes or re.split(r"\s*\+\s*", name))
        rows.append(LayerRow(name=name, kind=kind, precision=precision, origin=origin, mean_us=1e3 * total_ms / runs))
    return tuple(rows)


def layers_of(text: str) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """Reads the inspector's JSON into kind, precision and ONNX nodes by layer name."""
    found: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for layer in json.loads(text).get("Layers", ()):
        if isinstance(layer, str):
            found[layer] = ("", "", ())
            continue
        entry: dict[str, Any] = layer
        nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(entry.get("Metadata", ""))))
        formats = [str(t.get("Format/Datatype", t.get("Datatype", ""))) for t in entry.get("Outputs", ())]
        found[str(entry.get("Name", ""))] = (str(entry.get("LayerType", "")), formats[0] if formats else "", nodes)
    return found


def from_cost(target: str, cost: PlanCost, origins: Origins, devices: tuple[Device, ...]) -> Inspection:
    """Makes the table of a plan that cannot run here from its compiled kernels."""
    rows = tuple(
        LayerRow(
            name=row.name,
            kind=row.kind,
            precision=row.precision,
            origin=origins.of(row.nodes),
            bytes_moved=row.bytes_read + row.bytes_written,
            macs=row.macs,
        )
        for row in cost.rows
    )
    return Inspection(
        target=target,
        measured=False,
        runs=0,
        rows=rows,
        total_us=None,
        kernels=cost.kernels,
        bytes_moved=cost.bytes_moved,
        macs=cost.macs,
        estimates=tuple(estimate(cost, device) for device in devices),
        notes=(
            "The plan was not executed: kernels, types and bytes are the builder's own list, and times are estimates.",
            "An estimate takes each kernel at the device's peak bandwidth and peak rate, with nothing cached and no "
            "time between kernels: it ranks plans, and no device reaches it.",
        ),
    )


def estimate(cost: PlanCost, device: Device) -> Estimate:
    """Returns the sum of the kernels' rooflines on a device."""
    moved = [row.bytes_read + row.bytes_written for row in cost.rows]
    times = [device.seconds(row.precision, row.macs, size) for row, size in zip(cost.rows, moved, strict=True)]
    memory = sum(t for t, size in zip(times, moved, strict=True) if t <= size / (device.bandwidth_gb_s * 1e9))
    total = sum(times)
    return Estimate(
        device=device.name,
        compute_capability=device.compute_capability,
        total_us=total * 1e6,
        memory_bound_share=memory / total if total else 0.0,
    )
