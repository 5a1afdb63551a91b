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

- ``HardSwish``, ``Mish``, ``Gelu`` and ``LayerNormalization``, which the parser of 8.5 does not know, in operators that
  it does; and each DequantizeLinear with its zero point, which that parser asks for.

What is left that it cannot read is refused by name. What it reads is from its source, release 8.5-GA of onnx-tensorrt
(docs/operators.md, builtin_op_importers.cpp); no parser of 8.x has read these graphs here, because it asks for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
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
# What the parser of 8.5 has no importer for, of opset 17.
_UNKNOWN = frozenset(
    (
        *("Bernoulli", "BitShift", "BlackmanWindow", "Compress", "ConcatFromSequence", "ConvInteger", "DFT", "Det"),
        *("DynamicQuantizeLinear", "HammingWindow", "HannWindow", "HardSwish", "Hardmax", "IsInf"),
        *("LayerNormalization", "MatMulInteger", "MaxRoiPool", "MaxUnpool", "MelWeightMatrix", "Mod", "Multinomial"),
        *("NegativeLogLikelihoodLoss", "OneHot", "Optional", "OptionalGetElement", "OptionalHasElement"),
        *("QLinearConv", "QLinearMatMul", "STFT", "SequenceAt", "SequenceConstruct", "SequenceEmpty"),
        *("SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SoftmaxCrossEntropyLoss"),
        *("SplitToSequence", "StringNormalizer", "TfIdfVectorizer", "Unique"),
    )
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
        InputError: a node has no form in opset 17, or none that TensorRT 8.5 reads.
    """
    newer = model.opset_imports.get("", 0) > OPSET
    as_it_is = not (newer or has_half(model) or _integer_weights(model) or any(map(_lacks_zero, model.graph)))
    if as_it_is and not any(node.op_type in _WRITTEN_OUT for node in model.graph):
        _refuse_unknown(model)
        return None
    legacy = to_float32(model)
    _quantize_in_graph(legacy)
    if newer:
        to_opset_17(legacy)
    _write_out(legacy)
    _refuse_unknown(legacy)
    return legacy


def refusal(model: ir.Model) -> str | None:
    """Returns why TensorRT 8.x cannot read a deploy graph in any form; None where it can."""
    try:
        legacy_form(model)
    except InputError as error:
        return str(error)
    return None


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


def _lacks_zero(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear" and (len(node.inputs) < 3 or node.inputs[2] is None)


def _write_out(model: ir.Model) -> None:
    """Writes what the parser does not know in operators that it does, in place."""
    writer = GraphWriter(model.graph)
    for node in list(model.graph):
        if _lacks_zero(node):
            scale, kind = node.inputs[1], _first(node).dtype
            assert scale is not None and kind is not None
            zeros = np.zeros(array_of(scale).shape, kind.numpy())
            node.resize_inputs(3)
            node.replace_input_with(2, writer.constant(zeros, f"{scale.name}_zero"))
            writer.insert_before(node)
        elif node.op_type in _WRITTEN_OUT and node.domain == "":
            written = _WRITTEN_OUT[node.op_type](writer, node)
            if written is not None:
                writer.commit(node.outputs[0], written)


def _hard_swish(writer: GraphWriter, node: ir.Node) -> ir.Value:
    gate = writer.op("HardSigmoid", [_first(node)], "gate", {"alpha": 1 / 6, "beta": 0.5}, origin=node)
    return writer.op("Mul", [_first(node), gate], "out", instead_of=node)


def _mish(writer: GraphWriter, node: ir.Node) -> ir.Value:
    soft = writer.op("Softplus", [_first(node)], "soft", origin=node)
    return writer.op("Mul", [_first(node), writer.op("Tanh", [soft], "gate", origin=node)], "out", instead_of=node)


def _gelu(writer: GraphWriter, node: ir.Node) -> ir.Value:
    x = _first(node)

    def number(value: float, name: str) -> ir.Value:
        return writer.constant(np.asarray(value, np.float32), name)

    def op(kind: str, one: ir.Value, other: ir.Value, name: str) -> ir.Value:
        return writer.op(kind, [one, other], name, origin=node)

    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = op("Mul", op("Mul", x, x, "square"), x, "cube")
        inner = op("Add", x, op("Mul", cube, number(0.044715, "share"), "bent"), "inner")
        bent = writer.op("Tanh", [op("Mul", inner, number((2 / np.pi) ** 0.5, "slope"), "scaled")], "bent", origin=node)
    else:
        bent = writer.op("Erf", [op("Mul", x, number(0.5**0.5, "slope"), "scaled")], "bent", origin=node)
    gate = op("Mul", op("Add", bent, number(1, "one"), "shifted"), number(0.5, "half"), "gate")
    return writer.op("Mul", [x, gate], "out", instead_of=node)


def _layer_normalization(writer: GraphWriter, node: ir.Node) -> ir.Value | None:
    x, rank = _first(node), None if _first(node).shape is None else len(_first(node).shape or ())
    axis = node.attributes.get_int("axis", -1)
    if (axis >= 0 and rank is None) or any(output.uses() for output in node.outputs[1:]):
        return None
    axes = list(range(axis if axis < 0 else axis - (rank or 0), 0))
    deviation = writer.op("Sub", [x, writer.reduce("ReduceMean", x, axes, "mean", keepdims=True)], "deviation")
    square = writer.op("Mul", [deviation, deviation], "square", origin=node)
    variance = writer.reduce("ReduceMean", square, axes, "variance", keepdims=True)
    epsilon = writer.constant(np.asarray(node.attributes.get_float("epsilon", 1e-5), np.float32), "epsilon")
    spread = writer.op("Sqrt", [writer.op("Add", [variance, epsilon], "raised", origin=node)], "spread", origin=node)
    found = writer.op("Div", [deviation, spread], "normal", origin=node)
    for kind, factor in zip(("Mul", "Add"), node.inputs[1:], strict=False):
        if factor is not None:
            found = writer.op(kind, [found, factor], kind.lower(), origin=node)
    return found


_WRITTEN_OUT: dict[str, Callable[[GraphWriter, ir.Node], ir.Value | None]] = {
    "HardSwish": _hard_swish,
    "Mish": _mish,
    "Gelu": _gelu,
    "LayerNormalization": _layer_normalization,
}


def _refuse_unknown(model: ir.Model) -> None:
    """Raises what the parser of 8.5 would say first.

    Raises:
        InputError: an operator that it does not know, or integers that are not signed around zero.
    """
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue  # of a plug-in, which the device may have
        if node.op_type in _UNKNOWN or not onnx.defs.has(node.op_type, OPSET, ""):
            raise InputError(f"TensorRT 8.x has no {node.op_type} ({node.name}): build with TensorRT 10 or later")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            if zero is None or constant(zero) is None or array_of(zero).dtype != np.int8 or array_of(zero).any():
                raise InputError(
                    f"TensorRT 8.x takes signed integers around zero alone, which {node.op_type} {node.name!r} does "
                    "not give: let RadixRT quantise the network (--own-pairs drop)"
                )
