"""Lowers one canonical attention block to the operators that engines run well. One rule for SE, SK and split attention.

Before: whatever the exporter wrote. After, on (N, channels, 1, 1) tensors up to the gate::

    s = GlobalAveragePool(P)             of the whole radix tensor where there is one; else per branch, added
    z = act(Conv1x1(s; W1, b1))          W1's columns repeat R times, so no feature-map-sized sum is left
    g = Sigmoid(Conv1x1(z; W2', b2'))    R = 2: W2' = W2[0] - W2[1], as softmax(a0, a1) = (sigmoid(a0 - a1), 1 - that)
    V = U0 * g + U1 * (1 - g)            or one of the other ``Combine`` forms

R = 1 is ``U * sigmoid(a)``, or a hard sigmoid, and scaled or shifted where the block's is. R > 2 has one Softmax over a
static axis. No Shape, Gather or Transpose is left, and no Reshape but the two around the Softmax of R > 2. Every form
is equal in real arithmetic; which one is cheapest is a property of the target, so the caller chooses
(:class:`radixrt.export.attention.forms.AttentionForm`).

What is written here stands in no graph yet: the caller puts it in place, or takes it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from radixrt.export.attention.activations import write_activation
from radixrt.export.attention.affine import Floats, PoolKind
from radixrt.export.attention.block import Activation, AttentionBlock, Layer
from radixrt.export.attention.forms import AttentionForm, Combine, Parts, Squeeze
from radixrt.export.graph.writer import GraphWriter


@dataclass(frozen=True, eq=False)
class Lowered:
    """What stands for a block: ``output`` is V; ``form`` says in words what was written."""

    output: ir.Value
    form: str


def lower(block: AttentionBlock, form: AttentionForm, dtype: ir.DataType, writer: GraphWriter) -> Lowered:
    """Writes ``block`` in ``form``.

    Args:
        block: the canonical block; its weights are rounded to ``dtype`` here and nowhere earlier.
        form: the form asked for.
        dtype: the feature maps' type.
        writer: of the block's graph, whose opset is 13 or later. Its batch is left open.
    """
    to = _BlockWriter(block, dtype, writer)
    squeezed, first = _squeeze(block, form.squeeze, to)
    if block.hidden is None:
        features, excite = squeezed, Layer(first, block.excite.bias)
    else:
        layer, activation = block.hidden
        features = to.activate(to.fully_connected(squeezed, Layer(first, layer.bias), "fc1"), activation, "act")
        excite = block.excite
    if block.radix == 1:
        plain = to.activate(to.fully_connected(features, excite, "fc2"), block.gate, "gate")
        scaled = to.each(plain, "Mul", block.gate.scale, 1.0, "gate_scale")
        gate = to.each(scaled, "Add", block.gate.shift, 0.0, "gate_shift")
        output = to.op("Mul", [to.part(block, 0, form.parts), gate], "out")
        return Lowered(output, f"{_word(block.gate)} gate{'' if gate is plain else ', scaled'}")
    return _combine(block, form, features, excite, to)


def _word(gate: Activation) -> str:
    return {"Sigmoid": "sigmoid", "HardSigmoid": "hard-sigmoid", "Softmax": "softmax"}[gate.kind]


def _squeeze(block: AttentionBlock, how: Squeeze, writer: _BlockWriter) -> tuple[ir.Value, Floats]:
    """The pooled tensor, and the first FC's weight for it. Averaged maps with equal columns are added."""
    weight = block.hidden[0].weight if block.hidden is not None else block.excite.weight
    starts = np.cumsum([0, *(p.channels for p in block.pooled)])
    columns = [weight[:, a:b] for a, b in pairwise(starts)]
    merged: list[tuple[PoolKind, list[ir.Value], Floats]] = []
    for pooled, known in zip(block.pooled, columns, strict=True):
        alike = (m for m in merged if m[0] == pooled.kind == "avg" and np.array_equal(m[2], known))
        if (same := next(alike, None)) is not None:
            same[1].append(pooled.value)
        else:
            merged.append((pooled.kind, [pooled.value], known))
    tiny = [_pool(kind, maps, how, f"pool{i}", writer) for i, (kind, maps, _) in enumerate(merged)]
    if len(tiny) == 1:
        return tiny[0], merged[0][2]
    together = writer.op("Concat", tiny, "pooled", axis=1)
    return together, np.concatenate([known for _, _, known in merged], axis=1)


def _pool(kind: PoolKind, maps: list[ir.Value], how: Squeeze, role: str, writer: _BlockWriter) -> ir.Value:
    """The pooled sum of feature maps; of several only where they are averaged, which is linear."""
    op = "GlobalAveragePool" if kind == "avg" else "GlobalMaxPool"
    terms = maps if how is Squeeze.SUM else [writer.op(op, [m], f"{role}_{i}") for i, m in enumerate(maps)]
    total = terms[0]
    for index, term in enumerate(terms[1:], start=1):
        total = writer.op("Add", [total, term], f"{role}_sum{index}")
    return writer.op(op, [total], role) if how is Squeeze.SUM else total


def _combine(
    block: AttentionBlock, form: AttentionForm, features: ir.Value, excite: Layer, writer: _BlockWriter
) -> Lowered:
    folded = block.radix == 2 and block.gate.kind == "Softmax"
    combine = form.combine
    if combine is Combine.MIRROR and not folded:
        combine = Combine.SCALE
    if combine in (Combine.SCALE, Combine.MIRROR) and block.whole is None:
        combine = Combine.BLEND
    if combine in (Combine.LERP, Combine.BLEND) and not folded:
        combine = Combine.WEIGHTS
    if combine in (Combine.LERP, Combine.BLEND):
        gate = writer.op("Sigmoid", [writer.fully_connected(features, _difference(excite), "fc2")], "gate")
        left, right = (writer.part(block, r, form.parts) for r in range(2))
        if combine is Combine.LERP:
            scaled = writer.op("Mul", [gate, writer.op("Sub", [left, right], "difference")], "scaled")
            output = writer.op("Add", [right, scaled], "out")
        else:
            other = writer.rest(gate)
            output = writer.op(
                "Add", [writer.op("Mul", [left, gate], "out0"), writer.op("Mul", [right, other], "out1")], "out"
            )
        return Lowered(output, f"sigmoid of a folded difference, {combine.value}")
    if combine is Combine.MIRROR:
        weights = _mirrored(features, excite, writer)
    else:
        weights = _weights(block, features, excite, folded, writer)
    word = "sigmoid of a folded difference" if folded else f"{_word(block.gate)} over {block.radix}"
    if combine in (Combine.SCALE, Combine.MIRROR):
        assert block.whole is not None
        scaled = writer.op("Mul", [block.whole, weights], "scaled")
        return Lowered(writer.sum_parts(block, scaled, form.parts), f"{word}, {combine.value}")
    gates = writer.pieces(weights, block.radix, block.channels, form.parts, "weight")
    terms = [writer.op("Mul", [writer.part(block, r, form.parts), g], f"out{r}") for r, g in enumerate(gates)]
    return Lowered(writer.chain(terms), f"{word}, weights")


def _difference(excite: Layer) -> Layer:
    half = len(excite.bias) // 2
    return Layer(excite.weight[:half] - excite.weight[half:], excite.bias[:half] - excite.bias[half:])


def _mirrored(features: ir.Value, excite: Layer, writer: _BlockWriter) -> ir.Value:
    """The weights (N, 2 * C, 1, 1) of a folded softmax, whose second half is what the first leaves of one."""
    gate = writer.op("Sigmoid", [writer.fully_connected(features, _difference(excite), "fc2")], "gate")
    return writer.op("Concat", [gate, writer.rest(gate)], "gates", axis=1)


def _weights(block: AttentionBlock, features: ir.Value, excite: Layer, folded: bool, writer: _BlockWriter) -> ir.Value:
    """All R * C weights as one tensor (N, R * C, 1, 1)."""
    if folded:
        plus = _difference(excite)
        both = Layer(np.concatenate([plus.weight, -plus.weight]), np.concatenate([plus.bias, -plus.bias]))
        return writer.op("Sigmoid", [writer.fully_connected(features, both, "fc2")], "gate")
    logits = writer.fully_connected(features, excite, "fc2")
    if block.gate.kind != "Softmax":
        return writer.activate(logits, block.gate, "gate")
    # A zero in a Reshape's target copies the dimension: the batch stays whatever it is.
    by_radix = writer.op(
        "Reshape", [logits, writer.integers([0, block.radix, block.channels, 1], "by_radix")], "logits"
    )
    soft = writer.op("Softmax", [by_radix], "gate", axis=1)
    flat = [0, block.radix * block.channels, 1, 1]
    return writer.op("Reshape", [soft, writer.integers(flat, "flat")], "radix_major")


class _BlockWriter:
    """Writes the parts of one block; what is written comes from the layers that it replaces, or from the block."""

    def __init__(self, block: AttentionBlock, dtype: ir.DataType, to: GraphWriter) -> None:
        self._to, self._dtype = to, dtype
        self._parts: dict[tuple[ir.Value, Parts], Sequence[ir.Value]] = {}
        fcs = [n for n in block.nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
        self._origins = {"fc1": fcs[0], "fc2": fcs[-1]} if fcs else {}

    def op(
        self, op_type: str, inputs: Sequence[ir.Value], role: str, **attributes: int | list[int] | float | str
    ) -> ir.Value:
        return self._to.op(op_type, inputs, role, attributes, dtype=self._dtype, origin=self._origins.get(role))

    def constant(self, array: Floats, role: str) -> ir.Value:
        return self._to.constant(array.astype(self._dtype.numpy()), role)

    def integers(self, numbers: Sequence[int], role: str) -> ir.Value:
        return self._to.integers(numbers, role)

    def fully_connected(self, value: ir.Value, layer: Layer, role: str) -> ir.Value:
        weight = self.constant(layer.weight[:, :, None, None], f"{role}.weight")
        inputs = [value, weight]
        if layer.bias.any():
            inputs.append(self.constant(layer.bias, f"{role}.bias"))
        return self.op("Conv", inputs, role, kernel_shape=[1, 1])

    def activate(self, value: ir.Value, activation: Activation, role: str) -> ir.Value:
        return write_activation(value, activation, role, self, self._to.opset)

    def each(self, value: ir.Value, op_type: str, numbers: Floats | None, neutral: float, role: str) -> ir.Value:
        """``value`` times or plus a number for each channel, of which all may be the same."""
        if numbers is None or (numbers == neutral).all():
            return value
        alike = numbers[:1] if (numbers == numbers[0]).all() else numbers
        return self.op(op_type, [value, self.constant(alike.reshape(1, -1, 1, 1), f"{role}.numbers")], role)

    def rest(self, gate: ir.Value) -> ir.Value:
        """``1 - gate``."""
        return self.op("Sub", [self.constant(np.ones((1, 1, 1, 1)), "one"), gate], "rest")

    def part(self, block: AttentionBlock, r: int, parts: Parts) -> ir.Value:
        """``U_r``."""
        branch = block.branches[r]
        if branch.channels == block.channels:
            return branch.value
        if block.whole is not None:
            return self.pieces(block.whole, block.radix, block.channels, parts, "branch")[r]
        ends = [branch.start, branch.start + block.channels]
        bounds = [self.integers([e], f"branch{r}.{n}") for e, n in zip(ends, ("start", "end"), strict=True)]
        return self.op("Slice", [branch.value, *bounds, self.integers([1], f"branch{r}.axis")], f"branch{r}")

    def pieces(self, value: ir.Value, count: int, size: int, parts: Parts, role: str) -> Sequence[ir.Value]:
        """``value`` in ``count`` runs of ``size`` channels."""
        key = (value, parts)
        if key in self._parts:
            return self._parts[key]
        pieces: Sequence[ir.Value]
        if parts is Parts.SLICE:
            axis = self.integers([1], f"{role}.axis")
            pieces = []
            for r in range(count):
                bounds = [self.integers([(r + e) * size], f"{role}{r}.{n}") for e, n in ((0, "start"), (1, "end"))]
                pieces.append(self.op("Slice", [value, *bounds, axis], f"{role}{r}"))
        else:
            sizes, names = self.integers([size] * count, f"{role}.sizes"), [f"{role}{r}" for r in range(count)]
            pieces = self._to.ops(
                "Split", [value, sizes], names, {"axis": 1}, dtype=self._dtype, node_name=f"{self._to.prefix}.{role}s"
            )
        self._parts[key] = pieces
        return pieces

    def chain(self, terms: Sequence[ir.Value]) -> ir.Value:
        total = terms[0]
        for r, term in enumerate(terms[1:], start=1):
            total = self.op("Add", [total, term], "out" if r == len(terms) - 1 else f"sum{r}")
        return total

    def sum_parts(self, block: AttentionBlock, value: ir.Value, parts: Parts) -> ir.Value:
        shape = block.output.shape
        space = tuple(shape[2:]) if shape is not None and len(shape) == 4 else ()
        if parts is not Parts.REDUCE or not space or not all(isinstance(d, int) for d in space):
            return self.chain(self.pieces(value, block.radix, block.channels, parts, "part"))
        target = self.integers([0, block.radix, block.channels, *(int(str(d)) for d in space)], "radix_shape")
        apart = self.op("Reshape", [value, target], "by_branch")
        return self.op("ReduceSum", [apart, self.integers([1], "radix_axis")], "out", keepdims=0)
