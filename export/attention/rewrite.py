"""The pass over a graph: recognise every attention block, lower it, prove it, and put it in place.

A block whose proof misses is left as it was and reported. The nodes replaced are left to dead-code removal, for a shape
chain that starts inside a block may still be read outside.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from radixrt.export.attention.block import AttentionBlock
from radixrt.export.attention.interpret import interpret
from radixrt.export.attention.lower import AttentionForm, Lowered, lower
from radixrt.export.attention.recognise import recognise
from radixrt.export.graph.equivalence import prove
from radixrt.export.graph.shapes import Concrete, Sizes, concretise
from radixrt.export.passes.pass_result import PassResult
from radixrt.export.passes.report import AttentionRecord, Refusal

_LOWEST_OPSET = 13  # Split and ReduceSum take their sizes and axes as inputs from here on


def lower_attention(model: ir.Model, form: AttentionForm) -> PassResult:
    """Lowers every attention block of ``model`` to ``form``, in place."""
    graph = model.graph
    opset = graph.opset_imports.get("", 0)
    if opset < _LOWEST_OPSET:
        refusal = Refusal(node=graph.name or "graph", reason=f"opset {opset}: attention is rewritten from opset 13 on")
        return PassResult(refused=(refusal,))
    found = concretise(graph, Sizes())
    recognised = recognise(graph, interpret(graph, found))
    refused = list(recognised.refused)
    done: list[AttentionRecord] = []
    worst = 0.0
    names = _Names(graph)
    moved: dict[ir.Value, ir.Value] = {}
    for block in recognised.blocks:
        block = _follow(block, moved)
        dtype = ir.DataType(found.types[block.output].tensor_type.elem_type)
        lowered = lower(block, form, dtype, opset, names.fresh(block.name))
        proof = prove(block.nodes, lowered.nodes, (block.output, lowered.output), found)
        if proof.reason is not None:
            refused.append(Refusal(node=block.name, reason=proof.reason))
            continue
        worst = max(worst, proof.max_abs_err)
        _replace(graph, block, lowered, found)
        moved[block.output] = lowered.output
        done.append(
            AttentionRecord(
                name=block.name,
                kind=block.kind,
                radix=block.radix,
                cardinality=block.cardinality,
                lowering=lowered.form,
            )
        )
    return PassResult(bool(done), tuple(done), tuple(refused), (), worst)


def _follow(block: AttentionBlock, moved: dict[ir.Value, ir.Value]) -> AttentionBlock:
    return replace(
        block,
        branches=tuple(replace(b, value=moved.get(b.value, b.value)) for b in block.branches),
        pooled=tuple(replace(p, value=moved.get(p.value, p.value)) for p in block.pooled),
    )


def _replace(graph: ir.Graph, block: AttentionBlock, lowered: Lowered, found: Concrete) -> None:
    """Puts the new nodes where the block ended, and lets its readers read them."""
    old, new = block.output, lowered.output
    anchor = old.producer()
    assert anchor is not None
    for node in lowered.nodes:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.producer() is None and value.name:
                graph.initializers.setdefault(value.name, value)
    graph.insert_after(anchor, lowered.nodes)
    new.shape, new.type = old.shape, old.type
    found.shapes[new], found.types[new] = found.shapes[old], found.types[old]
    name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    if new.is_graph_output():
        # The graph's output keeps its name.
        old.name, new.name = f"{name}.replaced", name


class _Names:
    """Prefixes that no name of the graph begins with."""

    def __init__(self, graph: ir.Graph) -> None:
        self._taken = {v.name for node in graph for v in node.outputs} | set(graph.initializers)
        self._used: set[str] = set()

    def fresh(self, name: str) -> str:
        base = f"{name}.attention"
        prefix, number = base, 1
        while prefix in self._used or any(t is not None and t.startswith(prefix) for t in self._taken):
            number += 1
            prefix = f"{base}{number}"
        self._used.add(prefix)
        return prefix
