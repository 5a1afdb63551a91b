"""One session for every variant of a quantised graph: what is quantised, and how, is an input.

Trying a range, a layer in float or a corrected bias must not cost a new graph and a new session. Here each point
``x`` of a placement reads three scalars, and each layer a switch and a bias::

    x ──► Div(s) ──► Round ──► Clip(low, high) ──► Mul(s) ──► readers      (half to even, as QuantizeLinear)
    W' = W + switch * (fake_quantised(W) - W)
    B' = B + shift

``s = amax / 127`` with limits -127 and 127 is s8, ``amax / 255`` with 0 and 255 is the full unsigned range; a point
that is off has a step far below float32's resolution of its values. Beside the logits, the mean of each layer's
output channels comes out, for bias correction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import (
    channel_amax,
    channel_scales,
    dequantize,
    fake_quantize,
    scale_from_amax,
)
from radixrt.calibration.placement.decision import Decision, decide
from radixrt.calibration.placement.insert import is_unsigned
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.saturation import quantize_in_pairs
from radixrt.export.graph.facts import infer, root_of
from radixrt.export.graph.layers import Layer

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
        threads: of the runtime; 0 lets it choose.
    """

    def __init__(
        self, model: ir.Model, options: PlacementOptions, table: CalibrationTable, *, threads: int = 0
    ) -> None:
        import onnxruntime as ort

        graph_model = infer(model.clone())
        self.decision: Decision = decide(graph_model, options)
        self.roots = tuple(dict.fromkeys(root_of(v).name or "" for v in self.decision.points))
        self.layer_roots = tuple((layer, root_of(layer.data).name or "") for layer in self.decision.layers)
        self._full = {t.name: t.candidates.minmax for t in table.tensors}
        self._unsigned = {root_of(v).name or "": is_unsigned(v, options) for v in self.decision.points}
        self._input = graph_model.graph.inputs[0].name or ""
        self._output = graph_model.graph.outputs[0].name or ""
        builder = _Builder(graph_model)
        for layer in self.decision.layers:
            builder.layer(layer, full_range=is_unsigned(layer.data, options))
        # Roots are looked up before the first point goes in: it would stand in the way of the search.
        for value, root in [(v, root_of(v).name or "") for v in self.decision.points]:
            builder.point(value, root)
        options_ = ort.SessionOptions()
        options_.intra_op_num_threads = threads
        # Thousands of short runs: a thread that spins between them takes the processor from whoever else works.
        options_.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options_.log_severity_level = 3
        self._session = ort.InferenceSession(
            ir.to_proto(graph_model).SerializeToString(), options_, providers=["CPUExecutionProvider"]
        )
        self._zero_shift = {layer.name: np.zeros(_channels(layer), np.float32) for layer in self.decision.layers}
        batch = self._session.get_inputs()[0].shape[0]
        self._batch = batch if isinstance(batch, int) else _BATCH

    def everything(self, table: CalibrationTable) -> Variant:
        """All points with the table's ranges, all layers."""
        return Variant({r: table.amax(r) for r in self.roots}, frozenset(layer.name for layer in self.decision.layers))

    def logits(self, images: Array, variant: Variant) -> NDArray[np.float32]:
        """Logits of images under a variant, shape (N, classes)."""
        return self._run(images, variant, [self._output])[0]

    def channel_means(self, images: Array, variant: Variant, layers: list[str]) -> dict[str, Array]:
        """The mean of each output channel of the named layers over images and positions, shape (C,) each."""
        outputs = self._run(images, variant, [_mean_name(name) for name in layers])
        return {name: rows.mean(axis=0) for name, rows in zip(layers, outputs, strict=True)}

    def _run(self, images: Array, variant: Variant, outputs: list[str]) -> list[Array]:
        feeds: dict[str, object] = {}
        for root in self.roots:
            unsigned = self._unsigned[root]
            if root in variant.amax:
                scale = scale_from_amax(variant.amax[root], levels=255 if unsigned else 127)
                low, high = (0.0, 255.0) if unsigned else (-127.0, 127.0)
            else:
                scale = scale_from_amax(self._full.get(root, 1.0)) * 127 / _OFF_STEPS
                low, high = -3e38, 3e38
            feeds |= {
                f"{root}//scale": np.float32(scale),
                f"{root}//low": np.float32(low),
                f"{root}//high": np.float32(high),
            }
        for layer in self.decision.layers:
            feeds[f"{layer.name}//switch"] = np.float32(layer.name in variant.layers)
            feeds[f"{layer.name}//shift"] = variant.shifts.get(layer.name, self._zero_shift[layer.name])
        arrays = {k: np.asarray(v, np.float32) for k, v in feeds.items()}
        found: list[list[Array]] = [[] for _ in outputs]
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            count = len(part)
            if isinstance(self._session.get_inputs()[0].shape[0], int) and count < self._batch:
                part = np.concatenate([part, np.repeat(part[-1:], self._batch - count, axis=0)])
            for rows, value in zip(found, self._session.run(outputs, {**arrays, self._input: part}), strict=True):
                rows.append(value[:count])
        return [np.concatenate(rows) for rows in found]


def _channels(layer: Layer) -> int:
    return int(layer.weight.shape[layer.axis])


def _mean_name(layer: str) -> str:
    return f"{layer}//mean"


class _Builder:
    """Adds the switches to a graph, in place."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._inputs: dict[str, ir.Value] = {}

    def point(self, value: ir.Value, root: str) -> None:
        readers = list(value.uses())
        scale, low, high = (self._scalar(f"{root}//{part}") for part in ("scale", "low", "high"))
        steps = self._value(f"{value.name}//steps")
        rounded = self._value(f"{value.name}//rounded")
        clipped = self._value(f"{value.name}//clipped")
        back = self._value(f"{value.name}//back")
        nodes = [
            ir.Node("", "Div", [value, scale], outputs=[steps]),
            ir.Node("", "Round", [steps], outputs=[rounded]),
            ir.Node("", "Clip", [rounded, low, high], outputs=[clipped]),
            ir.Node("", "Mul", [clipped, scale], outputs=[back]),
        ]
        maker = value.producer()
        if maker is None:
            self._graph.insert_before(self._graph[0], nodes)
        else:
            self._graph.insert_after(maker, nodes)
        for node, index in readers:
            node.replace_input_with(index, back)

    def layer(self, layer: Layer, *, full_range: bool) -> None:
        node, name = layer.node, layer.name
        switch = self._scalar(f"{name}//switch")
        shift = self._input(f"{name}//shift", [_channels(layer)])
        weight = node.inputs[1]
        if full_range:
            integers, scales = quantize_in_pairs(layer.weight, layer.axis)
            rounded = dequantize(integers, scales, layer.axis)
        else:
            rounded = fake_quantize(layer.weight, channel_scales(channel_amax(layer.weight, layer.axis)), layer.axis)
        error = rounded - layer.weight
        difference = self._constant(f"{name}//error", error.astype(np.float32))
        scaled, chosen = self._value(f"{name}//scaled"), self._value(f"{name}//weight")
        nodes = [
            ir.Node("", "Mul", [difference, switch], outputs=[scaled]),
            ir.Node("", "Add", [weight, scaled], outputs=[chosen]),
        ]
        self._graph.insert_before(node, nodes)
        node.replace_input_with(1, chosen)
        bias = shift
        if node.op_type != "MatMul":
            old = node.inputs[2] if len(node.inputs) > 2 else None
            if old is not None:
                bias = self._value(f"{name}//bias")
                self._graph.insert_before(node, ir.Node("", "Add", [old, shift], outputs=[bias]))
            node.resize_inputs(3)
            node.replace_input_with(2, bias)
        rank = len(layer.output.shape or ())
        mean = self._value(_mean_name(name))
        if rank == 4:
            axes = self._constant(f"{name}//axes", np.array([2, 3], np.int64))
            reduce = ir.Node("", "ReduceMean", [layer.output, axes], [ir.AttrInt64("keepdims", 0)], outputs=[mean])
        else:
            reduce = ir.Node("", "Identity", [layer.output], outputs=[mean])
        self._graph.append(reduce)
        self._graph.outputs.append(mean)

    def _scalar(self, name: str) -> ir.Value:
        return self._input(name, [])

    def _input(self, name: str, shape: list[int]) -> ir.Value:
        if name not in self._inputs:
            value = ir.Input(name, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT))
            self._graph.inputs.append(value)
            self._inputs[name] = value
        return self._inputs[name]

    def _value(self, name: str) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))

    def _constant(self, name: str, array: Array) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value
