"""The pass over a graph: recognise every attention block, lower it, prove it, and put it in place.

A block whose proof misses is left as it was and reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.export.attention.block import AttentionBlock
from radixrt.export.attention.forms import AttentionForm
from radixrt.export.attention.interpret import interpret
from radixrt.export.attention.lower import lower
from radixrt.export.attention.recognise import recognise
from radixrt.export.graph.equivalence import prove
from radixrt.export.graph.shapes import Sizes, concretise
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.base import Pass, Prove
from radixrt.export.passes.report import AttentionRecord, PassResult, Refusal
from radixrt.export.sides import Sides

_LOWEST_OPSET = 13  # Split and ReduceSum take their sizes and axes as inputs from here on


@dataclass(frozen=True)
class LowerAttention(Pass):
    """Lowers every attention block.

    Attributes:
        form: the form to write.
        why: the reason for that form, a clause for the report.
        prove: says whether a lowered block computes what the block did.
        sides: the sizes of the image, where the graph leaves them free: blocks are then proved at two of them.
    """

    form: AttentionForm = field(default_factory=AttentionForm)
    why: str = ""
    prove: Prove = prove
    sides: Sides | None = None

    def call(self, model: ir.Model) -> PassResult:
        graph = model.graph
        opset = graph.opset_imports.get("", 0)
        if opset < _LOWEST_OPSET:
            reason = f"opset {opset}: attention is rewritten from opset {_LOWEST_OPSET} on"
            return PassResult(model, modified=False, refused=(Refusal(node=graph.name or "graph", reason=reason),))
        concrete, *others = (concretise(graph, sizes) for sizes in self._sizes())
        recognised = recognise(graph, interpret(graph, concrete))
        refused = list(recognised.refused)
        records: list[AttentionRecord] = []
        worst = 0.0
        moved: dict[ir.Value, ir.Value] = {}
        for block in recognised.blocks:
            block = _follow(block, moved)
            dtype = ir.DataType(concrete.types[block.output].tensor_type.elem_type)
            writer = GraphWriter(graph, f"{block.name}.attention", origin=block.name)
            lowered = lower(block, self.form, dtype, writer)
            old, new = block.output, lowered.output
            proofs = [self.prove(block.nodes, writer.nodes, (old, new), at) for at in (concrete, *others)]
            proof = next((proof for proof in proofs if proof.reason is not None), proofs[0])
            if proof.reason is not None:
                refused.append(Refusal(node=block.name, reason=proof.reason))
                writer.discard()
                continue
            worst = max(worst, *(proof.max_abs_err for proof in proofs))
            # The old nodes stay until all blocks are proved: the next block may share its shape chain with this one.
            writer.commit(old, new, prune=False)
            for at in (concrete, *others):
                at.shapes[new], at.types[new] = at.shapes[old], at.types[old]
            moved[old] = new
            records.append(
                AttentionRecord(
                    name=block.name,
                    kind=block.kind,
                    radix=block.radix,
                    cardinality=block.cardinality,
                    lowering=lowered.form,
                    why=self.why if block.radix > 1 else "",
                )
            )
        if records:
            common.RemoveUnusedNodesPass()(model)
            for old, new in moved.items():
                # Who knows the block's result by its name, a file's own Q/DQ pair does, finds it.
                if (maker := old.producer()) is None or maker.graph is None:
                    new.name = old.name if not new.is_graph_output() else new.name
        return PassResult(
            model,
            modified=bool(records),
            attention_blocks=tuple(records),
            refused=tuple(refused),
            max_abs_err=worst,
        )

    def _sizes(self) -> tuple[Sizes, ...]:
        """Those at which a graph is read and a block proved: two images of other sides where these are free."""
        probes = Sizes.probes(self.sides)
        return (probes[0], probes[-1]) if self.sides is not None and self.sides.free else probes[:1]


def _follow(block: AttentionBlock, moved: Mapping[ir.Value, ir.Value]) -> AttentionBlock:
    """The block as it reads what has been put in the place of the blocks before it."""
    return replace(
        block,
        branches=tuple(replace(b, value=moved.get(b.value, b.value)) for b in block.branches),
        pooled=tuple(replace(p, value=moved.get(p.value, p.value)) for p in block.pooled),
    )
