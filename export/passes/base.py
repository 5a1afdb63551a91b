"""What a pass is: an object that is called with a model, changes it in place, and says what it did.

The frame is onnx-ir's own (``ir.passes.InPlacePass``), so its passes and these stand in one list. What a pass needs to
know beside the model it is given when it is made.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import onnx_ir as ir

from radixrt.export.graph.equivalence import Proof, prove
from radixrt.export.graph.shapes import Concrete
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.report import PassResult, Refusal

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


@dataclass(frozen=True, eq=False)
class Rewrite:
    """Nodes that others can stand for.

    Attributes:
        name: what a refusal calls the place.
        nodes: those that are replaced, in order; the last one makes ``output``.
        write: writes the new nodes and returns what they make in place of ``output``.
        sizes: shapes and types that the proof runs at.
        prefix: what the names of all that is written begin with.
        origin: what the new nodes come from where ``write`` says nothing else.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    write: Callable[[GraphWriter], ir.Value]
    sizes: Concrete
    prefix: str = ""
    origin: ir.Node | None = None

    @property
    def output(self) -> ir.Value:
        """The tensor that is computed another way."""
        return self.nodes[-1].outputs[0]


@dataclass(frozen=True)
class ProvedPass(Pass):
    """A pass that puts each of its rewrites in place once it is proved, and takes it back where it is not.

    Attributes:
        prove: says whether the new nodes compute what the old ones did.
        refusal: what the report says of a rewrite that was taken back, before the reason.
    """

    prove: Prove = prove
    refusal: ClassVar[str]

    @abstractmethod
    def match(self, node: ir.Node) -> Rewrite | None:
        """The rewrite of the nodes that end in ``node``; None where there is none."""

    def call(self, model: ir.Model) -> PassResult:
        changed, worst = False, 0.0
        refused: list[Refusal] = []
        for node in list(model.graph):
            rewrite = self.match(node)
            if rewrite is None:
                continue
            writer, output = GraphWriter(model.graph, rewrite.prefix, origin=rewrite.origin), rewrite.output
            new = rewrite.write(writer)
            proof = self.prove(rewrite.nodes, writer.nodes, (output, new), rewrite.sizes)
            if proof.reason is not None:
                refused.append(Refusal(node=rewrite.name, reason=f"{self.refusal}: {proof.reason}"))
                writer.discard()
                continue
            worst, changed = max(worst, proof.max_abs_err), True
            writer.commit(output, new)
        return PassResult(model, modified=changed, refused=tuple(refused), max_abs_err=worst)


def stray_reader(graph: ir.Graph) -> ir.Node | None:
    """Returns a node that reads a tensor of ``graph`` and stands in no graph, where there is one."""
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.initializers.values(), *made):
        for node, _ in value.uses():
            if node.graph is None:
                return node
    return None
