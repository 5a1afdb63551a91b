"""Small outputs that tell all calibration wants of a tensor, computed inside the graph.

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
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.facts import Signs, static_dims

SAMPLE = 1 << 14
"""Values of one tensor and image that a histogram counts, at most."""


@dataclass(frozen=True)
class Probe:
    """The outputs that belong to one tensor; ``minimum`` is empty where the tensor is never negative."""

    tensor: str
    maximum: str
    minimum: str
    sample: str


def sample_stride(size: int, limit: int = SAMPLE) -> int:
    """The smallest stride, co-prime to ``size``, that takes at most ``limit`` of ``size`` values."""
    stride = max(1, math.ceil(size / limit))
    while math.gcd(stride, size) != 1:
        stride += 1
    return stride


def add_probes(model: ir.Model, values: Sequence[ir.Value]) -> list[Probe]:
    """Adds probes of the given values to a graph, in place, as outputs; the graph's own outputs stay first."""
    signs = Signs()
    probes = []
    for i, value in enumerate(values):
        maker = _ProbeMaker(model.graph, value, f"probe_{i}")
        probes.append(
            Probe(
                tensor=value.name or "",
                maximum=maker.reduce("ReduceMax"),
                minimum="" if signs.nonnegative(value) else maker.reduce("ReduceMin"),
                sample=maker.sample(),
            )
        )
    return probes


class _ProbeMaker:
    def __init__(self, graph: ir.Graph, value: ir.Value, prefix: str) -> None:
        self._graph, self._value, self._prefix = graph, value, prefix
        # Opset 18 made the axes of ReduceMax an input; before, they are an attribute.
        self._axes_as_input = graph.opset_imports.get("", 18) >= 18

    def reduce(self, op_type: str) -> str:
        rank = len(static_dims(self._value))
        axes = list(range(2, rank)) if rank > 2 else [rank - 1]
        inputs, attributes = [self._value], [ir.AttrInt64("keepdims", 0)]
        if self._axes_as_input:
            inputs.append(self._constant(f"{op_type}_axes", np.array(axes, np.int64)))
        else:
            attributes.append(ir.AttrInt64s("axes", axes))
        return self._output(op_type, inputs, attributes, op_type)

    def sample(self) -> str:
        dims = static_dims(self._value)[1:]
        size = math.prod(d for d in dims if d is not None) if None not in dims else 0
        flat = ir.Value(name=f"{self._prefix}_flat", type=ir.TensorType(ir.DataType.FLOAT))
        shape = self._constant("shape", np.array([0, -1], np.int64))
        node = ir.Node("", "Reshape", [self._value, shape], outputs=[flat], name=flat.name)
        self._graph.append(node)
        bounds = [
            self._constant(name, np.array([number], np.int64))
            for name, number in (("start", 0), ("end", np.iinfo(np.int64).max), ("axis", 1))
        ]
        step = self._constant("step", np.array([sample_stride(size) if size else 1], np.int64))
        return self._output("Slice", [flat, *bounds, step], [], "sample")

    def _output(self, op_type: str, inputs: list[ir.Value], attributes: list[ir.Attr], suffix: str) -> str:
        value = ir.Value(name=f"{self._prefix}_{suffix}", type=ir.TensorType(ir.DataType.FLOAT))
        self._graph.append(ir.Node("", op_type, inputs, attributes, outputs=[value], name=value.name))
        self._graph.outputs.append(value)
        return f"{value.name}"

    def _constant(self, suffix: str, array: NDArray[Any]) -> ir.Value:
        name = f"{self._prefix}_{suffix}"
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value
