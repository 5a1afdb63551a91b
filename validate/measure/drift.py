"""Where the error comes from: the deploy graph and its float32 reference run side by side, layer by layer.

For each layer that both have: the SQNR of its output, the least-squares gain between the two outputs (1 where nothing
scales), and how the error that its own quantisers add splits into rounding and clipping. The first drop is the first
layer whose SQNR falls by more than six decibels under that of the layers that feed it: six decibels is one bit. An
input that is still better than ``CLEAN_DB`` counts as ``CLEAN_DB``, because the first quantised layer of a sound INT8
network falls that far by itself.

Both graphs run on onnxruntime without its graph optimisations, so that no layer's output is fused away. That is the
arithmetic of the deploy graph as written. Where something else shows what it computed for the deploy graph's tensors,
such as a TensorRT plan that was built for it, its values take the place of the deploy graph's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.errors import InputError
from radixrt.export.feed import Feed
from radixrt.export.graph.session import GraphSession
from radixrt.validate.measure.layer_match import MatchedLayer, Pair, match_layers
from radixrt.validate.measure.parity import reported_db
from radixrt.validate.schema import SQNR_CAP_DB, DriftRow

CLEAN_DB = 36.0
DROP_DB = 6.0

Array = NDArray[Any]
Values = Callable[[Feed], Mapping[str, Array]]
"""Takes a graph's inputs and returns tensors of it by name."""


@dataclass
class _Sums:
    """Running sums of one layer over the batches."""

    signal: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    nonfinite: int = 0

    def add(self, reference: Array, deploy: Array) -> None:
        for one, other in zip(reference, deploy, strict=True):
            ref, dep = np.float32(one).ravel(), np.float32(other).ravel()
            lost = ~np.isfinite(dep)
            if lost.any():
                # An overflow would make every sum NaN; a zero in its place is what is left of the value.
                self.nonfinite += int(lost.sum())
                dep = np.where(lost, np.float32(0), dep)
            error = dep - ref
            self.signal += _dot(ref, ref)
            self.noise += _dot(error, error)
            self.product += _dot(ref, dep)


@dataclass
class _Own:
    """Error power that one pair adds to its tensor, and the tensor's own power."""

    signal: float = 0.0
    rounding: float = 0.0
    clipping: float = 0.0


@dataclass
class _Tally:
    layers: list[_Sums]
    pairs: dict[Pair, _Own] = field(default_factory=dict)


def drift(
    reference: ir.Model,
    deploy: ir.Model,
    batches: Iterable[Feed],
    *,
    values: Values | None = None,
) -> list[DriftRow]:
    """Holds two graphs against each other, layer by layer.

    Args:
        reference: the float32 graph before quantising or retyping.
        deploy: the graph made from it.
        batches: inputs as both take them; small batches keep the memory small, since every layer's
            output is held for one batch of both.
        values: what an engine computed for the tensors that :func:`watched` names; None runs the deploy graph.

    Raises:
        InputError: the graphs share no layer, the runtime refuses one, there is no batch, or the reference is not
            finite somewhere, or ``values`` lacks a layer.
    """
    layers = match_layers(reference, deploy)
    pairs = list(dict.fromkeys(pair for layer in layers for pair in layer.pairs))
    sources = [pair.tensor for pair in pairs]
    run_reference = _open(reference, [layer.reference for layer in layers], "reference")
    measured = values is not None
    if values is None:
        values = _open(deploy, [layer.deploy for layer in layers] + sources, "deploy")
    tally = _Tally([_Sums() for _ in layers], {pair: _Own() for pair in pairs})
    seen = False
    for batch in batches:
        expected = run_reference(batch)
        # The graph's inputs cannot be asked for as outputs, and the first pair quantises one.
        found = {**batch, **values(batch)}
        for sums, layer in zip(tally.layers, layers, strict=True):
            if not np.isfinite(expected[layer.reference]).all():
                raise InputError(f"the output of {layer.name} is NaN or infinite in float32: mend the checkpoint")
            if layer.deploy in found and expected[layer.reference].shape == found[layer.deploy].shape:
                sums.add(expected[layer.reference], found[layer.deploy])
            elif measured:
                raise InputError(f"the engine shows nothing of {layer.name} that its reference could be held against")
        for pair in pairs:
            if pair.tensor in found:
                _add_own(tally.pairs[pair], pair, found[pair.tensor])
        seen = True
    if not seen:
        raise InputError("no images to compare layers with: give test images")
    return _rows(layers, tally)


def watched(reference: ir.Model, deploy: ir.Model) -> tuple[str, ...]:
    """The tensors of the deploy graph that :func:`drift` looks at, without the graph's inputs.

    Raises:
        InputError: the graphs share no layer.
    """
    layers = match_layers(reference, deploy)
    names = [layer.deploy for layer in layers] + [pair.tensor for layer in layers for pair in layer.pairs]
    made = {value.name for node in deploy.graph for value in node.outputs}
    return tuple(name for name in dict.fromkeys(names) if name in made)


def drops_db(layers: list[MatchedLayer], levels: list[float]) -> list[float]:
    """How far each layer's SQNR falls under that of the layers that feed it, in decibels; at most 0 is no fall.

    Args:
        layers: in order of execution.
        levels: SQNR of each.
    """
    falls = []
    for layer, level in zip(layers, levels, strict=True):
        # The worst feeder bounds what the layer can give; one without feeders reads the clean image.
        before = min((levels[i] for i in layer.feeders), default=CLEAN_DB)
        falls.append(min(before, CLEAN_DB) - level)
    return falls


def _rows(layers: list[MatchedLayer], tally: _Tally) -> list[DriftRow]:
    levels = [reported_db(sums.signal, sums.noise) for sums in tally.layers]
    falls = drops_db(layers, levels)
    first = next((i for i, fall in enumerate(falls) if fall > DROP_DB), None)
    rows = []
    for depth, (layer, sums) in enumerate(zip(layers, tally.layers, strict=True)):
        pairs = [tally.pairs[pair] for pair in layer.pairs]
        rounding, clipping = sum(pair.rounding for pair in pairs), sum(pair.clipping for pair in pairs)
        own = rounding + clipping
        rows.append(
            DriftRow(
                name=layer.name,
                op_type=layer.op_type,
                depth=depth,
                sqnr_db=levels[depth],
                rounding_share=rounding / own if own > 0 else 0.0,
                clipping_share=clipping / own if own > 0 else 0.0,
                gain=sums.product / sums.signal if sums.signal > 0 else 1.0,
                first_drop=depth == first,
                drop_db=falls[depth],
                nonfinite=sums.nonfinite,
                own_sqnr_db=min((reported_db(p.signal, p.rounding + p.clipping) for p in pairs), default=SQNR_CAP_DB),
            )
        )
    return rows


def _dot(one: Array, other: Array) -> float:
    """A product in float32, which keeps six digits over the length of an image; in float64 where float32 ends."""
    with np.errstate(over="ignore", invalid="ignore"):
        product = float(np.dot(one, other))
    return product if math.isfinite(product) else float(np.dot(one.astype(np.float64), other.astype(np.float64)))


def _add_own(own: _Own, pair: Pair, tensor: Array) -> None:
    for image in tensor:
        values = np.float32(image).ravel()
        values = values[np.isfinite(values)]
        steps = np.rint(values / np.float32(pair.scale))
        kept = np.clip(steps, np.float32(pair.low - pair.zero_point), np.float32(pair.high - pair.zero_point))
        error = kept * np.float32(pair.scale) - values
        outside = error[steps != kept]
        clipped = float(np.dot(outside, outside))
        own.signal += float(np.dot(values, values))
        own.clipping += clipped
        own.rounding += max(0.0, float(np.dot(error, error)) - clipped)


def _open(model: ir.Model, tensors: list[str], what: str) -> GraphSession:
    try:
        return GraphSession(model, tensors, optimize=False)
    except InputError as error:
        raise InputError(f"the {what} graph cannot be run layer by layer: {error}") from error
