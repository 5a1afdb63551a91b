"""One session for every variant of a quantised graph: what is quantised, and how, is an input.

Trying a range, a layer in float or a corrected bias must not cost a new graph and a new session. Here each point
``x`` of a placement reads three scalars, and each layer its weight, as it was or rounded, and a shift of its bias::

    x ──► Div(s) ──► Round ──► Clip(low, high) ──► Mul(s) ──► readers      (half to even, as QuantizeLinear)
    B' = B + shift

Limits of -127 and 127 are s8, 0 and 255 the full unsigned range, -zero and 255 - zero one with a zero point; a point
that is off has a step far below float32's resolution of its values. Beside the outputs, the mean of each layer's
output channels comes out, for bias correction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import (
    QMAX,
    channel_amax,
    channel_scales,
    dequantize,
    fake_quantize,
    scale_from_amax,
)
from radixrt.calibration.placement.decision import Decision, decide
from radixrt.calibration.placement.grid import amax_of, grid_of
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.recovery.local_bias import local_error
from radixrt.calibration.recovery.selection import Selection
from radixrt.calibration.saturation import quantize_in_pairs
from radixrt.export.feed import Feed
from radixrt.export.graph.constants import forget
from radixrt.export.graph.facts import infer, root_of
from radixrt.export.graph.layers import Layer
from radixrt.export.graph.session import GraphSession
from radixrt.export.graph.writer import GraphWriter

Array = NDArray[Any]

_OFF_STEPS = 2.0**22  # a step of amax / 2**22 changes the last bit of a float32 or two
_BATCH = 8


@dataclass(frozen=True)
class Variant:
    """One way to quantise.

    Attributes:
        amax: per scale group, by the name of its root tensor; groups that are absent are off.
        layers: names of layers whose weights are quantised.
        shifts: what is added to the bias of a layer, shape (C,).
    """

    amax: dict[str, float] = field(default_factory=dict)
    layers: frozenset[str] = frozenset()
    shifts: dict[str, Array] = field(default_factory=dict)


class QuantSession:
    """A placement of a graph, open for trying.

    Args:
        model: the float32 graph; not changed.
        options: which layers and points there are.
        table: ranges, for what "off" means at each point.
        outputs: those that :meth:`answers` gives, or what they were chosen from; the graph's first where empty.
        threads: of the runtime; 0 lets it choose.
    """

    def __init__(
        self,
        model: ir.Model,
        options: PlacementOptions,
        table: CalibrationTable,
        *,
        outputs: tuple[str, ...] = (),
        threads: int = 0,
    ) -> None:
        switched = infer(model.clone())
        self.decision: Decision = decide(switched, options)
        points = [(value, root_of(value).name or "") for value in self.decision.points]
        self.roots = tuple(dict.fromkeys(root for _, root in points))
        self.layer_roots = tuple((layer, root_of(layer.data).name or "") for layer in self.decision.layers)
        self._seen = {t.name: t for t in table.tensors}
        self._points = {root: root_of(value) for value, root in points}
        self._traits = options.traits
        selection = Selection(switched.graph)
        self._outputs = selection.measurable(outputs or [switched.graph.outputs[0].name or ""])
        self._behind_choice = {layer.name for layer in self.decision.layers if layer.data in selection}
        switches = _Switches(switched.graph)
        in_pairs = options.traits.weights_in_pairs
        self._weights = {layer.name: _Weights.of(layer, in_pairs=in_pairs) for layer in self.decision.layers}
        for layer in self.decision.layers:
            switches.add_layer(layer)
        self._read = {layer.name: layer.data.name or "" for layer, _ in self.layer_roots}
        watched = set(self._read.values())
        for value, root in points:
            switches.add_point(value, root, watched=(value.name or "") in watched)
        self._session = GraphSession(switched, self._outputs, threads=threads, beside=True)
        self._no_shift = {layer.name: np.zeros(_channels(layer), np.float32) for layer in self.decision.layers}

    def everything(self, table: CalibrationTable) -> Variant:
        """All points with the table's ranges, all layers."""
        layers = frozenset(layer.name for layer in self.decision.layers)
        return Variant({root: amax_of(value, table) for root, value in self._points.items()}, layers)

    def answers(self, samples: Feed, variant: Variant) -> dict[str, Array]:
        """The outputs of samples under a variant by name, (N, ...) each."""
        return self._run(samples, variant, self._outputs)

    def channel_means(self, samples: Feed, variant: Variant, layers: list[str]) -> dict[str, Array]:
        """The mean of each output channel of the named layers over samples and positions, shape (C,) each.

        It is 0 behind a choice of the network's, which falls differently under another variant.
        """
        measured = [name for name in layers if name not in self._behind_choice]
        rows = self._run(samples, variant, [_mean_name(name) for name in measured])
        found = {name: rows[_mean_name(name)].mean(axis=0) for name in measured}
        return {name: found.get(name, self._no_shift[name]) for name in layers}

    def local_errors(self, samples: Feed, variant: Variant) -> dict[str, Array]:
        """What each layer's own quantisers add to the mean of its output channels, (C,) each.

        MatMuls are left out, and what lies behind a choice of the network's, which may leave no row at all.
        """
        layers = [layer for layer in self.decision.layers if layer.node.op_type != "MatMul"]
        layers = [layer for layer in layers if layer.name not in self._behind_choice]
        values = dict.fromkeys(self._read[layer.name] for layer in layers)
        names = [name(value) for value in values for name in (_raw_name, _rounded_name)]
        means = {name: rows.mean(axis=0) for name, rows in self._run(samples, variant, names).items()}
        found = {}
        for layer in layers:
            weights = self._weights[layer.name]
            raw, rounded = (means[name(self._read[layer.name])] for name in (_raw_name, _rounded_name))
            found[layer.name] = local_error(layer, weights.rounded - weights.exact, rounded, rounded - raw)
        return found

    def _run(self, samples: Feed, variant: Variant, outputs: list[str]) -> dict[str, Array]:
        feeds: dict[str, object] = {}
        for root in self.roots:
            seen = self._seen.get(root)
            if root in variant.amax:
                grid = grid_of(self._points[root], variant.amax[root], seen, self._traits)
                scale, limits = grid.scale, (float(grid.steps[0]), float(grid.steps[1]))
            else:
                scale = scale_from_amax(1.0 if seen is None else seen.candidates.minmax) * QMAX / _OFF_STEPS
                limits = (-3e38, 3e38)
            feeds |= {f"{root}//scale": scale, f"{root}//low": limits[0], f"{root}//high": limits[1]}
        for layer in self.decision.layers:
            weights = self._weights[layer.name]
            feeds[f"{layer.name}//weight"] = weights.rounded if layer.name in variant.layers else weights.exact
            feeds[f"{layer.name}//shift"] = variant.shifts.get(layer.name, self._no_shift[layer.name])
        arrays = {name: np.asarray(value, np.float32) for name, value in feeds.items()}
        return self._session.over(samples, outputs, arrays, batch=_BATCH)


def _channels(layer: Layer) -> int:
    return int(layer.weight.shape[layer.axis])


def _mean_name(layer: str) -> str:
    return f"{layer}//mean"


def _raw_name(value: str) -> str:
    return f"{value}//raw_mean"


def _rounded_name(value: str) -> str:
    return f"{value}//rounded_mean"


@dataclass(frozen=True)
class _Weights:
    """A layer's weight as it was, and as its integers stand for it."""

    exact: Array
    rounded: Array

    @staticmethod
    def of(layer: Layer, *, in_pairs: bool) -> _Weights:
        exact = np.ascontiguousarray(layer.weight, np.float32)
        if in_pairs:
            return _Weights(exact, np.ascontiguousarray(dequantize(*quantize_in_pairs(exact, layer.axis), layer.axis)))
        return _Weights(exact, fake_quantize(exact, channel_scales(channel_amax(exact, layer.axis)), layer.axis))


class _Switches:
    """Adds the inputs that switch points and layers to a graph, in place, and the means to its outputs."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._writer = GraphWriter(graph)
        self._inputs: dict[str, ir.Value] = {}

    def add_point(self, value: ir.Value, root: str, *, watched: bool) -> None:
        """Lets inputs quantise a point; where ``watched``, the means of its channels before and after come out."""
        scale, low, high = (self._input(f"{root}//{part}") for part in ("scale", "low", "high"))
        op = self._writer.op
        steps = op("Div", [value, scale], f"{value.name}//steps")
        clipped = op("Clip", [op("Round", [steps], f"{value.name}//rounded"), low, high], f"{value.name}//clipped")
        restored = op("Mul", [clipped, scale], f"{value.name}//restored", shape=value.shape)
        means = []
        if watched:
            named = ((value, _raw_name(value.name or "")), (restored, _rounded_name(value.name or "")))
            means = [self._mean(tensor, name) for tensor, name in named]
        self._writer.put_behind(value, restored)
        self._graph.outputs.extend(means)

    def add_layer(self, layer: Layer) -> None:
        writer, node, name = self._writer, layer.node, layer.name
        source, weight = node.inputs[1], self._input(f"{name}//weight", *layer.weight.shape)
        node.replace_input_with(1, weight)
        if source is not None:
            forget(self._graph, source)
        bias = self._input(f"{name}//shift", _channels(layer))
        old = node.inputs[2] if len(node.inputs) > 2 else None
        if old is not None:
            bias = writer.op("Add", [old, bias], f"{name}//bias")
        writer.insert_before(node)
        if node.op_type != "MatMul":
            node.resize_inputs(3)
            node.replace_input_with(2, bias)
        mean = self._mean(layer.output, _mean_name(name))
        writer.append()
        self._graph.outputs.append(mean)

    def _mean(self, value: ir.Value, name: str) -> ir.Value:
        """The mean of each channel over positions, (N, C)."""
        if positions := list(range(2, len(value.shape or ()))):
            return self._writer.reduce("ReduceMean", value, positions, name, keepdims=False)
        return self._writer.op("Identity", [value], name)

    def _input(self, name: str, *shape: int) -> ir.Value:
        if name not in self._inputs:
            self._inputs[name] = ir.Input(name, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT))
            self._graph.inputs.append(self._inputs[name])
        return self._inputs[name]
