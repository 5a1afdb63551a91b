"""The nodes that make up one block, from its feature maps to its output, and what else looks in.

Whatever else reads a tensor inside the block (a second head its pooled vector, a picture its gate) goes on to read the
nodes that made it: those that it needs stay beside what the block becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

import onnx_ir as ir

from radixrt.export.attention.interpret import Interpretation
from radixrt.export.graph.origin import module_of


@dataclass(frozen=True)
class Region:
    """The nodes of a block, in the graph's order.

    Attributes:
        reason: why the block may not be replaced, if it may not.
        shared_sum: a sum of feature maps inside the block that another node reads: it has to be made anyway.
    """

    nodes: tuple[ir.Node, ...]
    reason: str | None = None
    shared_sum: ir.Value | None = None


def region_of(graph: ir.Graph, output: ir.Value, maps: Set[ir.Value], state: Interpretation) -> Region:
    """Walks back from ``output`` to the feature maps ``maps``; constants belong to no region."""
    inside: set[ir.Node] = set()
    pending = [output]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None:
            return Region((), f"it reads {value.name!r}, which is neither a feature map nor a constant")
        if node in inside:
            continue
        inside.add(node)
        pending += [v for v in node.inputs if v is not None and v not in maps and not _is_constant(v, state)]
    nodes = tuple(node for node in graph if node in inside)
    for node in nodes:
        for value in node.outputs:
            source = state.source_of(value)
            if value is output or value in maps or source is None or not source.terms:
                continue
            if (
                any(n not in inside and not _only_shapes(n, state) for n in value.consumers())
                or value.is_graph_output()
            ):
                return Region(nodes, shared_sum=value)
    return Region(nodes)


def _is_constant(value: ir.Value, state: Interpretation) -> bool:
    return value in state.found.folded or value.const_value is not None


def _only_shapes(node: ir.Node, state: Interpretation) -> bool:
    """Whether a node reads nothing but a shape, which does not change."""
    return all(v in state.found.folded for v in node.outputs)


def common_module(nodes: Iterable[ir.Node]) -> str:
    """The module path that all ``nodes`` that have one share, e.g. ``layer3.2.conv2``."""
    paths = [path.split(".") for node in nodes if (path := module_of(node)) and path != node.name]
    if not paths:
        return ""
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) != 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
