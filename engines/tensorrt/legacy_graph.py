"""The deploy graph as TensorRT 8.5 and 8.6 read it: FP32 types and weights throughout, and opset 17.

Before: a strongly typed graph of opset 18 or later, whose INT8 weights are integers behind a DequantizeLinear.
After: the same graph with FP32 tensors and FP32 scales (what runs in FP16 and INT8 is then said by builder flags),

- each INT8 weight as FP32 behind a QuantizeLinear and its DequantizeLinear, because these parsers refuse integers
  ("invalid weights type of Int8"). The FP32 weight is ``integer * scale``, which QuantizeLinear divides by the same
  scale and rounds: the error of both roundings is far below one half, so the integer comes back exactly;
- and the operators whose form changed at opset 18 written the older way:

  - ``ReduceMean``, ``ReduceMax``, ``ReduceMin``, ``ReduceProd``, ``ReduceL1``, ``ReduceL2``: the axes are an attribute,
    no longer an input.
  - ``Split``: no ``num_outputs``; equal parts are what the older form does without sizes.
  - ``Pad``: no ``axes`` input.

Everything else that these networks use is the same in opset 17.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from radixrt.engines.tensorrt.api import TrtApi
from radixrt.errors import InputError
from radixrt.export.graph.constants import array_of, constant, forget
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.passes.float32 import has_half, to_float32

_AXES_ARE_AN_ATTRIBUTE = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
)


OPSET = 17
"""The newest operator set that the parsers of TensorRT 8.x read."""


def for_version(deploy: Path, api: TrtApi) -> bytes:
    """Returns the deploy graph in the form that a version's parser reads, as the bytes of an ONNX file.

    Raises:
        InputError: a node has no form in that version's opset.
    """
    if api.max_opset is None:
        return deploy.read_bytes()
    model = ir.load(deploy)
    return bytes(ir.to_proto(legacy_form(model) or model).SerializeToString())


def legacy_form(model: ir.Model) -> ir.Model | None:
    """Returns the form of a deploy graph that TensorRT 8.x reads; None where the graph itself is one.

    Args:
        model: the deploy graph; it is not changed.

    Raises:
        InputError: a node has no form in opset 17.
    """
    newer = model.opset_imports.get("", 0) > OPSET
    if not (newer or has_half(model) or _integer_weights(model)):
        return None
    legacy = to_float32(model)
    _quantize_in_graph(legacy)
    if newer:
        to_opset_17(legacy)
    return legacy


def _integer_weights(model: ir.Model) -> list[ir.Node]:
    """Each DequantizeLinear that reads INT8 from a constant."""
    return [
        node
        for node in model.graph
        if node.op_type == "DequantizeLinear"
        and all(constant(value) is not None for value in node.inputs)
        and array_of(_first(node)).dtype in (np.int8, np.uint8)
    ]


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def _quantize_in_graph(model: ir.Model) -> None:
    """Replaces weights of integers by FP32 weights behind a QuantizeLinear, in place."""
    writer = GraphWriter(model.graph)
    for node in _integer_weights(model):
        integers, scale = _first(node), node.inputs[1]
        assert scale is not None
        numbers, steps = array_of(integers), array_of(scale)
        # Without a zero point QuantizeLinear makes unsigned integers.
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        zero = zero or writer.constant(np.zeros(steps.shape, numbers.dtype), f"{scale.name}_zero")
        along = [1] * numbers.ndim
        if steps.ndim:
            along[node.attributes.get_int("axis", 1)] = steps.size
        offsets = array_of(zero).astype(np.float32).reshape(along)
        weight = (numbers.astype(np.float32) - offsets) * steps.astype(np.float32).reshape(along)
        name = (integers.name or "weight").removesuffix("_int8")
        quantized = writer.op(
            "QuantizeLinear",
            [writer.constant(weight.astype(np.float32), f"{name}_float"), scale, zero],
            f"{name}_q",
            {"axis": node.attributes.get_int("axis", 1)} if steps.ndim else {},
            dtype=integers.dtype,
            shape=ir.Shape(numbers.shape),
            origin=node,
        )
        writer.insert_before(node)
        node.replace_input_with(0, quantized)
        forget(model.graph, integers)


def to_opset_17(model: ir.Model) -> None:
    """Rewrites a graph of opset 18 to opset 17, in place.

    Raises:
        InputError: a node uses what opset 17 does not have.
    """
    version = model.opset_imports.get("", 0)
    if version > 20:
        raise InputError(f"the graph is of opset {version}, TensorRT 8.x reads 17: export it with opset 18")
    for node in model.graph:
        if node.op_type in _AXES_ARE_AN_ATTRIBUTE and len(node.inputs) > 1:
            axes = node.inputs[1]
            if axes is not None:
                if axes.const_value is None:
                    raise InputError(
                        f"{node.op_type} {node.name!r} computes its axes, which TensorRT 8.x cannot: make them constant"
                    )
                node.attributes["axes"] = ir.AttrInt64s("axes", [int(a) for a in axes.const_value.numpy().ravel()])
            node.resize_inputs(1)
            node.attributes.pop("noop_with_empty_axes", None)
        elif node.op_type == "Split":
            node.attributes.pop("num_outputs", None)
        elif node.op_type == "Pad" and len(node.inputs) > 3 and node.inputs[3] is not None:
            raise InputError(f"Pad {node.name!r} names its axes, which TensorRT 8.x cannot read: pad every dimension")
        elif node.op_type == "Resize" and {"antialias", "axes", "keep_aspect_ratio_policy"} & set(node.attributes):
            raise InputError(f"Resize {node.name!r} uses options of opset 18, which TensorRT 8.x cannot read")
        node.version = None
    model.opset_imports[""] = OPSET
    # Files of opset 17 came with this version of the format, which old parsers check.
    model.ir_version = min(model.ir_version, 8)
