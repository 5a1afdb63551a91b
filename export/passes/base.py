"""What a pass is: an object that is called with a model, changes it in place, and says what it did.

The frame is onnx-ir's own (``ir.passes.InPlacePass``), so its passes and these stand in one list. What a pass needs to
know beside the model it is given when it is made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import onnx_ir as ir

from radixrt.export.graph.equivalence import Proof
from radixrt.export.passes.report import PassResult

Prove: TypeAlias = Callable[..., Proof]
"""Compares the nodes of a rewrite with those that they replace; :func:`radixrt.export.graph.equivalence.prove`."""


class Pass(ir.passes.InPlacePass):
    """A pass of the rewriter: ``pass_(model)`` returns a :class:`PassResult`.

    Subclasses implement ``call``. A rewrite that is refused is reported, and taken back so that nothing of it is left:
    that is checked here after each pass, in the name of the pass that broke it.
    """

    def __call__(self, model: ir.Model | ir.passes.PassResult, /) -> PassResult:
        result = super().__call__(model)
        if not isinstance(result, PassResult):
            raise TypeError(f"the pass {self} returned a {type(result).__name__}: return a PassResult")
        return result

    @abstractmethod
    def call(self, model: ir.Model) -> PassResult:
        """Changes ``model`` in place."""

    def ensures(self, model: ir.Model) -> None:
        """Checks that only nodes of the graph read its tensors.

        Raises:
            PostconditionError: a node that stands in no graph reads one.
        """
        stray = stray_reader(model.graph)
        if stray is not None:
            raise ir.passes.PostconditionError(
                f"the pass {self} left the {stray.op_type} node {stray.name!r} behind, which reads the graph and "
                "stands in none: take a rewrite that is refused back with GraphWriter.discard()"
            )

    def __str__(self) -> str:
        return type(self).__name__


def stray_reader(graph: ir.Graph) -> ir.Node | None:
    """Returns a node that reads a tensor of ``graph`` and stands in no graph, where there is one."""
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        for node, _ in value.uses():
            if node.graph is None:
                return node
    return None
