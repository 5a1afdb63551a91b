"""Graphs of one network are observed in one pass: what only one of them computes grows on another.

::

    A:  image ──► … ──► r ──► Split ──► …          A with a graft:  image ──► … ──► r ──► Split ──► …
    B:  image ──► … ──► r ──► AveragePool ──► p                                     └───► AveragePool ──► p

Targets take a network in several forms, whose tensors are mostly the same: a rewriting keeps the name of a tensor whose
values it keeps. A name alone proves nothing. Here both graphs run on the first images, and a tensor is taken for its
namesake where all that calibration keeps of it agrees: the extremes of each channel and thousands of its values. What
does not agree, or has no namesake, is computed from what does by its own graph's nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.placement.decision import observed_values
from radixrt.calibration.ranges.outputs import add_probes
from radixrt.export.feed import Feed, length, part
from radixrt.export.graph.facts import holds_graphs
from radixrt.export.graph.session import GraphSession

Array = NDArray[Any]
Seen = dict[str, tuple[Array, ...]]

TOLERANCE = 1e-4
"""How far apart values may lie, as a share of their tensor's largest: a hundredth of an INT8 step. Rounding in another
order leaves a tenth of that in the deepest networks."""


def graft(base: ir.Model, others: Sequence[ir.Model], sample: Feed) -> tuple[dict[str, ir.Value] | None, ...]:
    """Adds to a graph what others compute beside it, so that one run shows the tensors that any of them is asked for.

    Args:
        base: the graph that is run, its shapes inferred; changed in place.
        others: graphs of the same network, their shapes inferred.
        sample: a few inputs, by which sameness is proved.

    Returns:
        of each other graph its observed tensors by name, as ``base`` has them now; None where it cannot grow there.
    """
    if not others:
        return ()
    own = {value.name or "": value for value in observed_values(base)}
    seen = _seen(base, sample)
    found: list[dict[str, ir.Value] | None] = []
    for index, other in enumerate(others):
        if not _fits(base, other):
            found.append(None)
            continue
        theirs = _seen(other, sample)
        same = {value.name or "": value for value in base.graph.inputs}
        same |= {name: own[name] for name, rows in theirs.items() if name in seen and _agree(rows, seen[name])}
        found.append(_Graft(base.graph, same, f"graft{index}").grown(other.graph, observed_values(other)))
    return tuple(found)


def _fits(base: ir.Model, other: ir.Model) -> bool:
    """Whether two graphs take the same inputs and speak of the same operators, none of which holds graphs."""
    inputs, theirs = ([(v.name, v.dtype, v.shape) for v in model.graph.inputs] for model in (base, other))
    plain = not any(map(holds_graphs, other.graph))
    return plain and inputs == theirs and base.opset_imports == other.opset_imports


def _seen(model: ir.Model, sample: Feed) -> Seen:
    """What calibration would keep of each observed tensor."""
    probed = model.clone()
    inputs = {value.name for value in probed.graph.inputs}
    probes = add_probes(probed, [value for value in observed_values(probed) if value.name not in inputs])
    # As it is written: what a runtime fuses depends on what else is computed.
    session = GraphSession(probed, optimize=False)
    size = session.batch or 1
    parts = (part(sample, start, start + size) for start in range(0, length(sample), size))
    runs = [rows for _, rows in session.each(parts, [name for probe in probes for name in probe.names])]
    return {probe.tensor: tuple(rows[name] for rows in runs for name in probe.names) for probe in probes}


def _agree(one: Sequence[Array], other: Sequence[Array]) -> bool:
    """Whether two tensors hold the same values, but for rounding."""
    if [rows.shape for rows in one] != [rows.shape for rows in other]:
        return False
    largest = max(float(np.abs(rows).max(initial=0.0)) for rows in one)
    return all(float(np.abs(a - b).max(initial=0.0)) <= TOLERANCE * largest for a, b in zip(one, other, strict=True))


class _Graft:
    """Copies nodes of one graph to another, down to the tensors that both have.

    Args:
        graph: where they grow.
        same: tensors of ``graph`` by the names of those of the other graph that they are the same as.
        prefix: of new names.
    """

    def __init__(self, graph: ir.Graph, same: Mapping[str, ir.Value], prefix: str) -> None:
        self._graph, self._prefix = graph, prefix
        self._values = dict(same)

    def grown(self, other: ir.Graph, wanted: Sequence[ir.Value]) -> dict[str, ir.Value]:
        """The tensors of the other graph by name, as this graph has them now."""
        nodes = set[ir.Node]()
        pending = [*wanted]
        while pending:
            value = pending.pop()
            node = value.producer()
            if (value.name or "") in self._values or node is None or node in nodes:
                continue
            nodes.add(node)
            pending.extend(read for read in node.inputs if read is not None)
        for node in other:
            if node in nodes:
                self._copy(node)
        return {value.name or "": self._values[value.name or ""] for value in wanted}

    def _copy(self, node: ir.Node) -> None:
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else self._read(value) for value in node.inputs],
            [ir.Attr(a.name, a.type, a.value) for a in node.attributes.values()],
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=f"{self._prefix}/{node.name}",
        )
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name, new.shape, new.type = f"{self._prefix}/{old.name}", old.shape, old.type
            # A tensor that has a namesake is read from there, whatever else its node makes.
            self._values.setdefault(old.name or "", new)
        self._graph.append(copy)

    def _read(self, value: ir.Value) -> ir.Value:
        name = value.name or ""
        if name not in self._values:
            assert value.const_value is not None
            constant = ir.Value(
                name=f"{self._prefix}/{name}", shape=value.shape, type=value.type, const_value=value.const_value
            )
            self._graph.register_initializer(constant)
            self._values[name] = constant
        return self._values[name]
