"""What a network chooses from its own values: boxes that are kept, the best of a list, the class of a pixel.

Behind such a choice two nearly equal networks differ by whole rows, and in how many there are, so that no error can be
measured there, nor the mean of a layer; it is measured on what was chosen from.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from radixrt.export.graph.facts import reads

_CHOICES = frozenset({"ArgMax", "ArgMin", "Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"})
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Selection:
    """The values of a graph that lie behind a choice."""

    def __init__(self, graph: ir.Graph) -> None:
        self._values = {value.name or "": value for node in graph for value in node.outputs}
        self._chosen: set[ir.Value] = set()
        self._computed: set[ir.Value] = set()
        for node in graph:
            read = set(reads(node))
            if node.op_type in _CHOICES or read & self._chosen:
                self._chosen.update(node.outputs)
            if node.op_type in _LAYERS or read & self._computed:
                self._computed.update(node.outputs)

    def __contains__(self, value: ir.Value) -> bool:
        return value in self._chosen

    def measurable(self, outputs: Sequence[str]) -> list[str]:
        """The outputs whose error can be measured; in the place of one that was chosen, what it was chosen from."""
        found: dict[str, None] = {}
        for name in outputs:
            value = self._values.get(name)
            before = [] if value is None or value not in self else self._before(value)
            found.update(dict.fromkeys(before or [name]))
        return list(found)

    def _before(self, output: ir.Value) -> list[str]:
        """The numbers, computed by layers, that an output was chosen from."""
        found: list[str] = []
        pending, seen = [output], {output}
        while pending:
            node = pending.pop().producer()
            for value in reads(node) if node is not None else ():
                if value in seen:
                    continue
                seen.add(value)
                if value in self:
                    pending.append(value)
                elif value in self._computed and value.dtype == ir.DataType.FLOAT:
                    found.append(value.name or "")
        return found
