"""Layers and times of a TensorRT plan where it runs, from TensorRT's own inspector and profiler.

For 8.5 to 11 and for RTX; not executed where this was written: there is no GPU there. The inspector's JSON changed in
11, so only what all versions give is read: a list ``Layers`` of names, or of objects with a name, a type and metadata.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from radixrt.engines.base import BuildOptions
from radixrt.engines.inspection import LayerRow, noise
from radixrt.engines.layer_origin import Origins
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.session import CudaSession

_WARM_UP = 3


def plan_layers(api: TrtApi, engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
    """Profiles a plan on the GPU that is here."""
    # A captured graph hides its layers from the profiler.
    with CudaSession(api, engine, use_graph=False) as session:
        described = layers_of(session.describe())
        feeds = noise(session, options)
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
