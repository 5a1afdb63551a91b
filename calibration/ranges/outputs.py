"""Small outputs that hold all that calibration keeps of a tensor, computed inside the graph.

For each observed tensor ``x`` of shape (N, C, ...)::

    x ──► ReduceMax(axes 2..)  ──► (N, C)    largest value of each channel
    x ──► ReduceMin(axes 2..)  ──► (N, C)    smallest; left out where the graph proves that x is never negative
    x ──► Reshape(N, -1) ──► Slice(step k) ──► (N, samples)

Handing whole activations out instead would cost a copy of each and a hundred megabytes of fresh memory per image;
this way the runtime reuses its buffers, reduces while the tensor is in the cache, and uses every core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.facts import Signs, static_dims
from radixrt.export.graph.writer import GraphWriter

SAMPLE = 1 << 14
"""Values of one tensor and image that a histogram counts, at most."""


@dataclass(frozen=True)
class Probe:
    """The outputs that belong to one tensor; ``minimum`` is empty where the tensor is never negative."""

    tensor: str
    maximum: str
    minimum: str
    sample: str

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that there are."""
        return tuple(name for name in (self.maximum, self.minimum, self.sample) if name)


def sample_stride(size: int, limit: int = SAMPLE) -> int:
    """The smallest stride, co-prime to ``size``, that takes at most ``limit`` of ``size`` values."""
    stride = max(1, math.ceil(size / limit))
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride


def add_probes(model: ir.Model, values: Sequence[ir.Value]) -> list[Probe]:
    """Adds probes of the given values to a graph, in place, as outputs; the graph's own outputs stay first."""
    signs, writer = Signs(), GraphWriter(model.graph, "probe")
    probes = []
    for i, value in enumerate(values):
        rank = len(static_dims(value))
        axes = list(range(2, rank)) if rank > 2 else [rank - 1]
        maximum = writer.reduce("ReduceMax", value, axes, f"{i}_max", keepdims=False)
        minimum = None
        if not signs.nonnegative(value):
            minimum = writer.reduce("ReduceMin", value, axes, f"{i}_min", keepdims=False)
        sample = _sample(writer, value, i)
        writer.append()
        model.graph.outputs.extend(output for output in (maximum, minimum, sample) if output is not None)
        probes.append(
            Probe(
                tensor=value.name or "",
                maximum=maximum.name or "",
                minimum="" if minimum is None else minimum.name or "",
                sample=sample.name or "",
            )
        )
    return probes


def _sample(writer: GraphWriter, value: ir.Value, i: int) -> ir.Value:
    dims = static_dims(value)[1:]
    size = math.prod(d for d in dims if d is not None) if None not in dims else 0
    flat = writer.op("Reshape", [value, writer.integers([0, -1], "shape")], f"{i}_flat")
    bounds = [writer.integers([0], "start"), writer.integers([np.iinfo(np.int64).max], "end")]
    step = writer.integers([sample_stride(size) if size else 1], f"{i}_step")
    return writer.op("Slice", [flat, *bounds, writer.integers([1], "axis"), step], f"{i}_sample")
