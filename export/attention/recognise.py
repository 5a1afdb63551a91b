"""Finds the attention blocks of a graph: its gated tensors become canonical blocks or refusals.

Before: any graph. After: the same graph; each tensor that is a sum of feature maps times a gate is an
:class:`~radixrt.export.attention.block.AttentionBlock`, or a
:class:`~radixrt.export.passes.report.Refusal` that says why not.

A block is refused where there is no FC, where its gate is no softmax over the radix and no (hard) sigmoid, where one of
several gates is scaled or shifted, where its FCs are more than two deep or mix activations, and where a branch is not a
run of consecutive channels. A tensor inside it may be read elsewhere or be an output of the graph, and an FC's weight
may be shared with other nodes: what they need stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from scipy import sparse

from radixrt.export.attention.affine import Activated, Affine, Floats, Pooled, stack
from radixrt.export.attention.block import Activation, AttentionBlock, Branch, Gate, Kind, Layer, PooledMap
from radixrt.export.attention.interpret import Interpretation
from radixrt.export.attention.region import Region, common_module, region_of
from radixrt.export.attention.values import LAYOUT_OPS, Gated, Source, View
from radixrt.export.graph.origin import module_of
from radixrt.export.passes.report import Refusal


class _NotABlockError(Exception):
    """Carries the reason of a refusal up to :func:`recognise`."""


@dataclass(frozen=True)
class Recognised:
    """The blocks in the graph's order, and the look-alikes that are no block."""

    blocks: tuple[AttentionBlock, ...]
    refused: tuple[Refusal, ...]


def recognise(graph: ir.Graph, state: Interpretation) -> Recognised:
    """Turns what ``state`` knows of ``graph`` into blocks and refusals; changes nothing."""
    blocks: list[AttentionBlock] = []
    refused: list[Refusal] = []
    settled: set[ir.Node] = set()
    outputs = _outputs(graph, state)
    gates_of = {value: _gates_of(value, state) for value in outputs}
    # A sum of gated maps before its terms, which others may read as well.
    for value in sorted(outputs, key=lambda value: -len(gates_of[value])):
        gates = gates_of[value]
        if not gates or gates & settled:
            continue
        settled |= gates
        try:
            blocks.append(_block(graph, value, state))
        except _NotABlockError as reason:
            refused.append(Refusal(node=_label(value.producer()), reason=str(reason)))
    refused += [Refusal(node=_label(node), reason=why) for node, why in state.gates.items() if node not in settled]
    place = {value: index for index, value in enumerate(outputs)}
    return Recognised(tuple(sorted(blocks, key=lambda block: place[block.output])), tuple(refused))


def _label(node: ir.Node | None) -> str:
    if node is None:
        return ""
    return node.name or module_of(node) or node.op_type


def _outputs(graph: ir.Graph, state: Interpretation) -> list[ir.Value]:
    """The gated tensors that a node outside their block reads, before any layout operators that merely follow."""
    found: dict[ir.Value, None] = {}
    for node in graph:
        for value in node.outputs:
            if not isinstance(state.known.get(value), Gated):
                continue
            readers = value.consumers()
            inner = all(_absorbs(reader, state) for reader in readers)
            if value.is_graph_output() or not inner:
                found[_before_layout(value, state)] = None
    return list(found)


def _absorbs(reader: ir.Node, state: Interpretation) -> bool:
    return reader not in state.gates and any(isinstance(state.known.get(v), Gated) for v in reader.outputs)


def _before_layout(value: ir.Value, state: Interpretation) -> ir.Value:
    """Steps back over layout operators while what stands before them is a plain feature map, or this one is none."""
    while (node := value.producer()) is not None and node.op_type in LAYOUT_OPS:
        before = node.inputs[0]
        if before is None or not isinstance(known := state.known.get(before), Gated):
            break
        after = state.known[value]
        if not known.plain and isinstance(after, Gated) and after.plain:
            break
        value = before
    return value


def _gates_of(value: ir.Value, state: Interpretation) -> set[ir.Node]:
    """The gating multiplications that ``value`` is made of."""
    found: set[ir.Node] = set()
    pending, seen = [value], {value}
    while pending:
        node = pending.pop().producer()
        if node is None:
            continue
        if node in state.gates:
            found.add(node)
            continue
        for before in node.inputs:
            if before is not None and before not in seen and isinstance(state.known.get(before), Gated):
                seen.add(before)
                pending.append(before)
    return found


def _block(graph: ir.Graph, value: ir.Value, state: Interpretation) -> AttentionBlock:
    gated = state.known[value]
    if not isinstance(gated, Gated) or not gated.plain:
        raise _NotABlockError("a branch is not a run of consecutive channels")
    runs = [run for plane in gated.planes if (run := plane.view.run) is not None]
    if any(len(state.found.shapes[source.value]) != 4 for source, _ in runs):
        raise _NotABlockError("a branch is not a four-dimensional feature map")
    branches = tuple(Branch(source.value, start, source.channels) for source, start in runs)
    rows = [plane.gate.take(plane.gate_index.ravel()) for plane in gated.planes]
    gate, excite = _gate(rows)
    hidden, layer2, squeezed = _layers(excite)
    gated_maps = {b.value for b in branches}
    kept: frozenset[ir.Value] = frozenset()
    while True:
        vector = _expand_sums(squeezed, gated_maps, kept, state)
        maps = tuple(basis for basis, _ in vector.terms if isinstance(basis, Pooled))
        region = region_of(graph, value, gated_maps | {m.source for m in maps}, state)
        if region.shared_sum is None:
            break
        kept |= {region.shared_sum}
    if not any(node.op_type in ("Conv", "Gemm", "MatMul") for node in region.nodes):
        raise _NotABlockError("there is no FC between its pool and its gate")
    if region.reason is not None:
        raise _NotABlockError(region.reason)
    if any(len(state.found.shapes[m.source]) != 4 for m in maps):
        raise _NotABlockError("the pooled tensor is not a four-dimensional feature map")
    layer1 = Layer(_dense(vector), vector.bias)
    return AttentionBlock(
        name=common_module(region.nodes) or _label(value.producer()),
        kind=_kind(branches),
        cardinality=_cardinality(region),
        pooled=tuple(PooledMap(m.kind, m.source, m.size) for m in maps),
        branches=branches,
        channels=gated.dims[0],
        hidden=(layer1, hidden) if hidden is not None else None,
        excite=layer2 if layer2 is not None else layer1,
        gate=gate,
        output=value,
        nodes=region.nodes,
    )


def _kind(branches: tuple[Branch, ...]) -> Kind:
    if len(branches) == 1:
        return "se"
    return "split" if len({b.value for b in branches}) == 1 else "sk"


def _cardinality(region: Region) -> int:
    return max((n.attributes.get_int("group", 1) for n in region.nodes if n.op_type == "Conv"), default=1)


def _gate(rows: list[Affine]) -> tuple[Gate, Affine]:
    """The gate, and what its function is applied to: R * C rows in radix-major order."""
    weights = stack(rows)
    bases = [basis for basis, _ in weights.terms]
    kinds = {basis.kind if isinstance(basis, Activated) else "a pooled tensor" for basis in bases}
    if len(kinds) != 1 or not kinds <= {"Softmax", "Sigmoid", "HardSigmoid"}:
        raise _NotABlockError(f"its gate is {' and '.join(sorted(kinds))}, not a softmax over the radix or a sigmoid")
    if len(rows) == 2 and kinds == {"Sigmoid"} and (complement := _complement(rows)) is not None:
        return Gate("Softmax"), complement
    places = sum((abs(m) for _, m in weights.terms[1:]), start=abs(weights.terms[0][1]))
    if (np.diff(sparse.csr_matrix(places).indptr) != 1).any():
        raise _NotABlockError("its gate is mixed after the activation")
    scale: Floats = np.sum([m @ np.ones(basis.size) for basis, m in weights.terms], axis=0)
    if len(rows) > 1 and ((scale != 1.0).any() or weights.bias.any()):
        raise _NotABlockError("its gates are scaled, shifted or negated after the activation")
    inner: Affine | None = None
    for basis, matrix in weights.terms:
        assert isinstance(basis, Activated)
        ones = sparse.csr_matrix((np.ones(matrix.nnz), matrix.indices, matrix.indptr), matrix.shape)
        part = basis.inner.apply(ones)
        inner = part if inner is None else inner.plus(part)
    assert inner is not None and isinstance(bases[0], Activated)
    if kinds == {"Softmax"}:
        _check_softmax(weights, len(rows))
    elif len({b.params for b in bases if isinstance(b, Activated)}) != 1:
        raise _NotABlockError("its gates are different functions")
    return Gate(bases[0].kind, bases[0].params, scale, weights.bias), inner


def _complement(rows: list[Affine]) -> Affine | None:
    """For the gates ``g`` and ``1 - g``: softmax over (a, 0) where ``g = sigmoid(a)``; None for other pairs."""
    total = rows[0].plus(rows[1])
    if any(abs(m).nnz and abs(m).max() > 0 for _, m in total.terms) or (total.bias != 1.0).any():
        return None
    plain = rows[0] if not rows[0].bias.any() else rows[1]
    if len(plain.terms) != 1 or plain.bias.any() or (plain.terms[0][1].data != 1.0).any():
        return None
    basis, matrix = plain.terms[0]
    if not isinstance(basis, Activated) or (np.diff(matrix.indptr) != 1).any():
        return None
    argument = basis.inner.apply(matrix)
    nothing = argument.scale(np.zeros(argument.size))
    return stack([argument, nothing] if plain is rows[0] else [nothing, argument])


def _check_softmax(weights: Affine, radix: int) -> None:
    """Each output channel must be gated by one whole softmax: R different elements of a group of R."""
    if len(weights.terms) != 1:
        raise _NotABlockError("its gates come from different softmaxes")
    basis, matrix = weights.terms[0]
    assert isinstance(basis, Activated) and basis.group_of is not None
    elements = matrix.indices.reshape(radix, -1)
    groups = basis.group_of[elements]
    sizes = np.bincount(basis.group_of)[groups]
    distinct = all(len(set(column)) == radix for column in elements.T)
    if radix == 1 or (groups != groups[0]).any() or (sizes != radix).any() or not distinct:
        raise _NotABlockError("its softmax runs over another axis than the radix")


def _layers(excite: Affine) -> tuple[Activation | None, Layer | None, Affine]:
    """Splits the gate's argument: the activation between the FCs, the second FC, and the first FC as an affine map."""
    bases = [basis for basis, _ in excite.terms]
    if not bases:
        raise _NotABlockError("its gate is a constant")
    if all(isinstance(basis, Pooled) for basis in bases):
        return None, None, excite
    acted = [basis for basis in bases if isinstance(basis, Activated)]
    if len(acted) != len(bases) or len({(b.kind, b.params) for b in acted}) != 1 or acted[0].kind == "Softmax":
        raise _NotABlockError("its FCs mix different activations")
    squeezed = stack([basis.inner for basis in acted])
    if not all(isinstance(basis, Pooled) for basis, _ in squeezed.terms):
        raise _NotABlockError(_too_deep(excite, squeezed))
    act = Activation(acted[0].kind, acted[0].params)
    if act.kind == "PRelu" and len(acted) > 1:
        raise _NotABlockError("its FCs mix activations that differ from channel to channel")
    if act.kind == "HardSigmoid" and act.params[1] == 0.0:
        # A ReLU6 between the FCs, for which engines have a kernel.
        slope = act.params[0]
        act, excite = Activation("Clip", (0.0, 1.0 / slope)), excite.scale_terms(slope)
    return act, Layer(_dense(excite), excite.bias), squeezed


def _too_deep(excite: Affine, squeezed: Affine) -> str:
    """Which of its parts follow one another, where there is one more than a block has."""
    for vector, where in ((excite, "at its gate"), (squeezed, "between its FCs")):
        if all((np.diff(matrix.tocsr().indptr) <= 1).all() for _, matrix in vector.terms):
            kinds = sorted({basis.kind for basis, _ in vector.terms if isinstance(basis, Activated)})
            return f"two activations follow one another {where} (the first is {' and '.join(kinds)})"
    return "it has more than two FCs"


def _dense(vector: Affine) -> Floats:
    return np.asarray(sparse.hstack([m for _, m in vector.terms]).toarray(), np.float64)


def _expand_sums(vector: Affine, maps: set[ir.Value], kept: frozenset[ir.Value], state: Interpretation) -> Affine:
    """Pooling is linear: a pooled sum of the branches becomes the sum of the pooled branches. ``kept`` sums stay."""
    changed = True
    while changed:
        changed = False
        for basis, _ in vector.terms:
            source = state.source_of(basis.source) if isinstance(basis, Pooled) and basis.kind == "avg" else None
            if source is None or source.value in kept or not source.terms or not _leaves(source, state) <= maps:
                continue
            vector = vector.substitute(basis, _sum_of_pools(source, state))
            changed = True
            break
    return vector


def _leaves(source: Source, state: Interpretation) -> set[ir.Value]:
    if not source.terms:
        return {source.value}
    return set().union(*(_leaves(s, state) for view in source.terms for s in view.sources))


def _sum_of_pools(source: Source, state: Interpretation) -> Affine:
    total: Affine | None = None
    for view in source.terms:
        part = _pool_of(view, state)
        total = part if total is None else total.plus(part)
    assert total is not None
    return total.scale(np.full(total.size, source.scale))


def _pool_of(view: View, state: Interpretation) -> Affine:
    return state.pooled("avg", view, view.dims).vector
