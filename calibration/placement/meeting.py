"""What meets in a Concat gets one scale, so that joining it moves integers and rounds nothing again.

::

    skip ──► Q/DQ ──┐
                    ├──► Concat ──► Q/DQ ──► Conv          one scale in all three
    up ────► Q/DQ ──┘

Each of the joined tensors is a point, for a runtime joins integers only where all of them are. What only the Concat
reads loses nothing by a wider range: the Concat's own scale is what its numbers end up with. A tensor that others read
too (the skip of a U-Net feeds the next stage of the encoder) keeps a scale of its own where the common one would cost
it more than a bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from radixrt.calibration.ranges.table import CalibrationTable, Candidates, TensorRange
from radixrt.export.graph.facts import commutes, is_wide, root_of

_WIDENED = 2.0
"""How many times wider than its own the range of a tensor may become that not only a Concat reads: one bit."""


def meeting(points: Iterable[ir.Value]) -> Iterator[ir.Value]:
    """What the given points are joined from, through Concats of Concats too."""
    pending, seen = [root_of(value) for value in points], set[int]()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for member in _members(value):
            yield member
            pending.append(member)


def with_one_scale(graph: ir.Graph, table: CalibrationTable) -> CalibrationTable:
    """The table with one range for all that meet.

    Args:
        graph: the graph that the table belongs to, its shapes inferred.
        table: ranges of its tensors.
    """
    ranges = {tensor.name: tensor for tensor in table.tensors}
    groups: dict[str, set[str]] = {}
    for node in graph:
        output = node.outputs[0]
        names = {value.name or "" for value in (output, *_members(output))} & ranges.keys()
        if not _members(output) or (output.name or "") not in ranges:
            continue
        widest = max(ranges[name].candidates.minmax for name in names)
        names = {
            name
            for name in names
            if name == output.name or ranges[name].candidates.minmax * _WIDENED >= widest or _only_joined(graph, name)
        }
        whole = names.union(*(groups.get(name, set()) for name in names))
        groups.update(dict.fromkeys(whole, whole))
    if not groups:
        return table
    tensors = (_spanning(t, [ranges[n] for n in groups[t.name]]) if t.name in groups else t for t in table.tensors)
    return table.model_copy(update={"tensors": tuple(tensors)})


def _members(value: ir.Value) -> list[ir.Value]:
    """What ``value`` is joined from, where a Concat of feature maps makes it."""
    node = value.producer()
    if node is None or node.op_type != "Concat" or node.domain or not is_wide(value):
        return []
    return [root_of(member) for member in node.inputs if member is not None and is_wide(member)]


def _only_joined(graph: ir.Graph, name: str) -> bool:
    """Whether nothing but Concats reads a tensor, or what moves its values."""
    values = (value for node in graph for value in node.outputs)
    pending = [value for value in values if value.name == name]
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            return False
        for node in value.consumers():
            if commutes(node):
                pending.extend(node.outputs)
            elif node.op_type != "Concat":
                return False
    return True


def _spanning(tensor: TensorRange, group: list[TensorRange]) -> TensorRange:
    """A tensor with the range that holds all of a group."""
    fields = Candidates.model_fields
    return tensor.model_copy(
        update={
            "amax": max(t.amax for t in group),
            "minimum": min(t.minimum for t in group),
            "maximum": max(t.maximum for t in group),
            "candidates": Candidates(**{name: max(getattr(t.candidates, name) for t in group) for name in fields}),
        }
    )
