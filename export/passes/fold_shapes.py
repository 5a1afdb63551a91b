"""Replaces shape chains by constants, so that a dynamic batch leaves no Shape, Gather or Concat behind.

Before: ``Reshape(x, Concat(Gather(Shape(x), 0), [2, 64, ...]))``. After: ``Reshape(x, [-1, 2, 64, ...])`` with nothing
of the chain left. The chain's value is computed at two batch sizes and, where the image's sides are free too, at two
heights and two widths, none of them equal to another:

- equal at all of them: it is a constant;
- a Reshape whose result differs in one place only: that place becomes -1, which means "what is left"; where it differs
  in more, each that has the input's size at the same place becomes 0;
- an Expand whose target differs where the input already has that size: that place becomes 1, which leaves the input's
  size.

Anything else keeps its chain. Integer chains only: a float is never touched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.shapes import Array, Concrete, Sizes, concretise
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass
from radixrt.export.passes.report import PassResult
from radixrt.export.sides import Sides


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Folds every shape chain that can be told from a few runs, at sizes that ``sides`` allow."""

    sides: Sides | None = None

    def call(self, model: ir.Model) -> PassResult:
        probes = [concretise(model.graph, sizes) for sizes in Sizes.probes(self.sides)]
        writer = GraphWriter(model.graph)
        changed = False
        for node in list(model.graph):
            for place, value in enumerate(node.inputs):
                if value is None or value.producer() is None or value not in probes[0].folded:
                    continue
                array = _target(node, place, value, probes)
                if array is None:
                    continue
                name = f"{node.name or node.outputs[0].name}.input{place}"
                node.replace_input_with(place, writer.constant(array, name))
                changed = True
        writer.append()
        return PassResult(model, modified=changed)


def _target(node: ir.Node, place: int, value: ir.Value, probes: list[Concrete]) -> Array | None:
    producer = value.producer()
    if producer is None or producer.op_type == "Constant" or _all_folded(node, probes[0]):
        return None
    arrays = [probe.folded.get(value) for probe in probes]
    known = [a for a in arrays if a is not None]
    if len(known) != len(arrays) or known[0].dtype not in (np.int64, np.int32):
        return None
    if all(np.array_equal(known[0], other) for other in known[1:]):
        return known[0]
    if place != 1 or node.op_type not in ("Reshape", "Expand"):
        return None
    return _reshape(node, probes) if node.op_type == "Reshape" else _expand(node, probes, known)


def _reshape(node: ir.Node, probes: list[Concrete]) -> Array | None:
    """The target as a Reshape may state it: sizes, one -1, and 0 for the input's size at that place."""
    before = [probe.shapes.get(node.inputs[0]) if node.inputs[0] is not None else None for probe in probes]
    after = [probe.shapes.get(node.outputs[0]) for probe in probes]
    if any(a is None for a in after) or len({len(a) for a in after if a is not None}) != 1:
        return None
    sizes = np.asarray(after, np.int64)
    differs = (sizes != sizes[0]).any(axis=0)
    if (sizes[0] == 0).any():
        return None
    target = np.where(differs, -1, sizes[0])
    for place in np.flatnonzero(differs) if differs.sum() > 1 else ():
        if all(b is not None and place < len(b) and b[place] == a[place] for b, a in zip(before, sizes, strict=True)):
            target[place] = 0
    if (target == -1).sum() > 1:
        return None
    node.attributes.pop("allowzero", None)
    return target


def _expand(node: ir.Node, probes: list[Concrete], known: list[Array]) -> Array | None:
    if len({a.shape for a in known}) != 1:
        return None
    targets = np.stack(known)
    differs = (targets != targets[0]).any(axis=0)
    for probe, target in zip(probes, targets, strict=True):
        source = probe.shapes.get(node.inputs[0]) if node.inputs[0] is not None else None
        if source is None or len(source) != len(target) or (np.asarray(source)[differs] != target[differs]).any():
            return None
    return np.where(differs, 1, targets[0])


def _all_folded(node: ir.Node, probe: Concrete) -> bool:
    return all(v in probe.folded for v in node.outputs)
