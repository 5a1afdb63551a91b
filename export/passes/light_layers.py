"""Layers that hardly multiply get the type that their target runs them in fastest.

They are the depthwise convolutions, and the two FCs of an SE gate. Beside INT8 neighbours each can stay in INT8, or
leave it and pay for the way there and back. One of:

    int8        as it is, in INT8
    padded      in INT8, its channels padded by zeros to a multiple of 16 (``export/graph/channels.py``)
    float       as it is, in float

Which one is the caller's choice, shape by shape. A gate is never padded on its own. This pass only writes the padding:
the types are given by the placement, which is told what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import onnx_ir as ir

from radixrt.export.graph.channels import pad_channels
from radixrt.export.graph.constants import constant
from radixrt.export.graph.equivalence import Proof
from radixrt.export.graph.facts import is_wide, root_of
from radixrt.export.graph.origin import module_of
from radixrt.export.graph.session import run_once
from radixrt.export.passes.base import Pass
from radixrt.export.passes.conv_shape import ConvShape, read_shape
from radixrt.export.passes.report import LightLayer, PassResult

LightForm = Literal["int8", "padded", "float"]

MULTIPLE = 16
"""Channels that INT8 kernels of x86 take at once."""

_ROUNDING = 1e-4
"""Of a whole network in float32, as a share of its largest answer: sums of more channels are added in another order."""


@dataclass(frozen=True)
class LightShape:
    """A light layer without its values.

    Attributes:
        kind: which of the two.
        conv: the depthwise convolution; of a gate its map, as a 1x1 convolution that is not there would read it.
        activation: behind it: ``Relu``, ``HardSwish``, ``SiLU`` or none.
        gate: ``Sigmoid`` or ``HardSigmoid``, of a gate.
        hidden: channels between the FCs of a gate.
        squeezed: channels that a gate's first FC reads: those of the map, or fewer where ``SqueezeEarly`` pools what a
            1x1 convolution makes the map of.
    """

    kind: Literal["depthwise", "gate"]
    conv: ConvShape
    activation: str = ""
    gate: str = ""
    hidden: int = 0
    squeezed: int = 0

    @property
    def forms(self) -> tuple[LightForm, ...]:
        """What there is to choose from, the first being what stays unless another wins."""
        padded = self.kind == "depthwise" and self.conv.in_channels % MULTIPLE
        return ("int8", "padded", "float") if padded else ("int8", "float")

    def __str__(self) -> str:
        if self.kind == "gate":
            size = f"{self.conv.height or '?'}x{self.conv.width or '?'}"
            pooled = "" if self.squeezed == self.conv.in_channels else f" from {self.squeezed}"
            words = f"{self.gate} of {self.conv.in_channels} channels{pooled} at {size} by {self.hidden}"
            return f"{words}, {self.activation}"
        return f"{self.conv} pads {self.conv.pads} {self.activation}".strip()


ChooseLight: TypeAlias = Callable[[LightShape], tuple[LightForm, str]]
"""Takes a light layer's shape, returns the form it gets and the reason, a clause for the report."""


@dataclass(frozen=True)
class LightLayers(Pass):
    """Asks for every light layer. Shapes must be inferred.

    Attributes:
        choose: asked once per layer; it must cache its answers if they are expensive.
        batch: images per run that the choice is made for, where the graph's batch is dynamic.
        prove: compares the whole graph before and after all paddings, which are taken back where it finds a difference.
    """

    choose: ChooseLight
    batch: int = 1
    prove: Callable[[ir.Model, ir.Model, int], Proof] = field(default_factory=lambda: prove_whole)

    def call(self, model: ir.Model) -> PassResult:
        records: list[LightLayer] = []
        before: ir.Model | None = None
        for node in list(model.graph):
            found = _depthwise(node, self.batch) or _gate(node, self.batch)
            if found is None:
                continue
            layers, shape = found
            form, why = self.choose(shape)
            if form == "padded":
                before = before or model.clone()
                refusal = pad_channels(model.graph, node, MULTIPLE)
                if refusal is not None:
                    form, why = "int8", f"{why}; not padded, {refusal}"
            records += [LightLayer(node=n.name or "", name=module_of(n), form=form, why=why) for n in layers]
        proof = Proof(0.0) if before is None else self.prove(before, model, self.batch)
        if before is not None and proof.reason is not None:
            model.graph = before.graph
            padded = {"form": "int8", "why": f"not padded: {proof.reason}"}
            records = [record.model_copy(update=padded if record.form == "padded" else {}) for record in records]
        changed = any(record.form == "padded" for record in records)
        return PassResult(model, modified=changed, light_layers=tuple(records), max_abs_err=proof.max_abs_err)


def prove_whole(before: ir.Model, after: ir.Model, batch: int) -> Proof:
    """Runs two graphs on the same noise, each node as it is written, and says how far apart their outputs are.

    Args:
        before: a graph whose open dimensions are all batches.
        after: another way to write it.
        batch: what stands in for these.
    """
    worst = 0.0
    left, right = (run_once(ir.to_proto(model), batch) for model in (before, after))
    for exact, other in zip(left.values(), right.values(), strict=True):
        error = float(np.abs(np.subtract(exact, other, dtype=np.float64)).max(initial=0.0))
        limit = _ROUNDING * float(np.abs(exact).max(initial=0.0))
        worst = max(worst, error)
        if not error <= limit:
            return Proof(error, f"before and after differ by {error:.3g}, more than {limit:.3g}")
    return Proof(worst)


def _depthwise(node: ir.Node, batch: int) -> tuple[list[ir.Node], LightShape] | None:
    if node.op_type != "Conv" or node.domain or node.attributes.get_int("group", 1) == 1:
        return None
    shape = read_shape(node, batch)
    weight = constant(node.inputs[1])
    if isinstance(shape, str) or not shape.depthwise or shape.out_channels != shape.in_channels or weight is None:
        return None
    return [node], LightShape("depthwise", shape, _activation(node.outputs[0]))


def _activation(value: ir.Value) -> str:
    readers = {reader.op_type for reader in value.consumers()}
    if readers == {"Sigmoid", "Mul"}:
        return "SiLU"
    if readers == {"HardSigmoid", "Mul"}:
        return "HardSwish"
    return next((kind for kind in ("Relu", "HardSwish") if readers == {kind}), "")


def _gate(node: ir.Node, batch: int) -> tuple[list[ir.Node], LightShape] | None:
    """The two FCs behind the gate that ``node`` multiplies a map by."""
    if node.op_type != "Mul" or node.domain or not is_wide(node.outputs[0]):
        return None
    for data, gate in (node.inputs, node.inputs[::-1]):
        maker = None if gate is None else gate.producer()
        if data is None or maker is None or maker.op_type not in ("Sigmoid", "HardSigmoid") or is_wide(gate):
            continue
        second = _layer_before(maker)
        first = None if second is None else _layer_before(second)
        pooled = None if first is None or first.inputs[0] is None else root_of(first.inputs[0]).producer()
        if (
            second is None
            or first is None
            or pooled is None
            or pooled.op_type not in ("GlobalAveragePool", "ReduceMean")
        ):
            continue
        return _gate_shape(data, maker, first, second, batch)
    return None


def _layer_before(node: ir.Node) -> ir.Node | None:
    """The FC that a node reads, through one activation."""
    maker = None if node.inputs[0] is None else node.inputs[0].producer()
    if maker is not None and maker.op_type in ("Relu", "HardSwish"):
        maker = None if maker.inputs[0] is None else maker.inputs[0].producer()
    elif maker is not None and maker.op_type == "Mul":  # SiLU: which of its inputs is the gate does not matter
        makers = [value.producer() for value in maker.inputs if value is not None]
        maker = next((made for made in makers if made is not None and made.op_type == "Conv"), None)
    return maker if maker is not None and maker.op_type == "Conv" and constant(maker.inputs[1]) is not None else None


def _gate_shape(
    data: ir.Value, gate: ir.Node, first: ir.Node, second: ir.Node, batch: int
) -> tuple[list[ir.Node], LightShape] | None:
    shape, dims = read_shape(first, batch), data.shape
    if isinstance(shape, str) or dims is None or len(dims) != 4 or not isinstance(dims[1], int):
        return None
    height, width = (size if isinstance(size, int) else None for size in dims[2:])
    channels = dims[1]
    wide = ConvShape(shape.batch, channels, channels, 1, (1, 1), height=height, width=width)
    source = data.producer()
    activation = "" if source is None or source.inputs[0] is None else _activation(source.inputs[0])
    return [first, second], LightShape("gate", wide, activation, gate.op_type, shape.out_channels, shape.in_channels)
