"""A captured graph becomes a clean one: folded, checked, every shape known, no trace of the exporting machine.

Before: the exporter's graph (or an ONNX file), with stack traces, local paths and perhaps chains of Shape nodes.
After: the graph as onnxsim leaves it, valid for ``onnx.checker``, each value with a type and a shape, and the torch
module path on each node, as ``pkg.torch.onnx.name_scopes`` or in its name.

onnxsim keeps the names of nodes and values and drops the nodes' metadata. The module paths are put back by node name,
which survives the fusion of a convolution with its BatchNorm, else by the name of the value that the node makes.
"""

from __future__ import annotations

import contextlib
import io
import math

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.errors import InputError, first_line
from radixrt.export.graph.dimensions import name_dimensions
from radixrt.export.graph.origin import NAME_SCOPES, copy_origin
from radixrt.export.graph.save import WEIGHTS_LIMIT, weight_bytes, write_onnx
from radixrt.export.reader.spelling.softmax import name_softmax_axes
from radixrt.export.sides import Sides

__all__ = ["check", "infer_shapes", "simplify", "strip_metadata", "write_onnx"]

_LARGEST_FOLDED = "256MB"  # a folded constant ends up in the file; the largest weight of the known networks is 8 MB


def simplify(model: ir.Model, *, opaque: bool = False, sides: Sides | None = None) -> ir.Model:
    """Folds, checks and cleans a graph. ``model`` itself is not changed.

    Args:
        model: the graph.
        opaque: shapes behind operators that nobody knows may stay unknown.
        sides: the sizes of its image, where they are free.

    Raises:
        InputError: the graph is not valid ONNX, cannot be simplified, or a shape in it cannot be inferred.
    """
    if weight_bytes(model) >= WEIGHTS_LIMIT:
        raise InputError("the model has 2 GB of weights or more, which is more than onnxsim takes")
    model = model.clone()
    if model.functions:
        common.InlinePass()(model)
        common.NameFixPass()(model)
    by_node, by_value = _origins(model)
    result: ir.Model = ir.from_proto(_run_onnxsim(ir.to_proto(model)))
    for node in result.graph:
        scopes = by_node.get(node.name or "") or by_value.get(node.outputs[0].name or "")
        if scopes is not None:
            node.metadata_props[NAME_SCOPES] = scopes
        elif by_node and (maker := next((v.producer() for v in node.inputs if v is not None), None)) is not None:
            # The exporter adds nodes of its own, to split a tensor for instance: they belong to what they work on.
            copy_origin(maker, node)
    strip_metadata(result)
    name_softmax_axes(result, sides)
    infer_shapes(result, opaque=opaque)
    if sides is not None:
        name_dimensions(result, sides)
    check(result)
    return result


def strip_metadata(model: ir.Model) -> None:
    """Removes what exporters and tools leave behind, except the names of the torch modules."""
    model.doc_string = None
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.doc_string = None
        graph.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            _strip_value(value)
        for node in graph:
            node.doc_string = None
            scopes = node.metadata_props.get(NAME_SCOPES)
            node.metadata_props.clear()
            if scopes is not None:
                node.metadata_props[NAME_SCOPES] = scopes
            for value in node.outputs:
                _strip_value(value)


def infer_shapes(model: ir.Model, *, opaque: bool = False) -> None:
    """Infers the type and shape of every value; where ``opaque``, of as many as can be.

    Raises:
        InputError: a value stays without one.
    """
    common.ShapeInferencePass()(model)
    for node in model.graph:
        for value in node.outputs:
            if not opaque and value.name and (value.shape is None or value.dtype is None):
                raise InputError(f"the shape of {value.name!r} (a {node.op_type}) cannot be inferred")
    _name_batch(model)


def _name_batch(model: ir.Model) -> None:
    """Gives the batch its name back behind a Reshape to ``[-1, ...]``, where inference invents one (``unk__0``).

    With one free dimension on either side and as many elements in the others, the two are the same.
    """
    same: dict[str | None, str | None] = {}
    for node in model.graph:
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        source, target = node.inputs[0].shape, node.outputs[0].shape
        if source is None or target is None:
            continue
        free_in = [same.get(side.value, side.value) for side in source if not isinstance(side, int)]
        free_out = [side.value for side in target if not isinstance(side, int)]
        fixed_in, fixed_out = (math.prod(side for side in shape if isinstance(side, int)) for shape in (source, target))
        if len(free_in) == len(free_out) == 1 and fixed_in == fixed_out and free_out[0] not in (None, *free_in):
            same[free_out[0]] = free_in[0]
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and any(not isinstance(s, int) and s.value in same for s in value.shape):
                value.shape = ir.Shape(s if isinstance(s, int) else same.get(s.value, s.value) for s in value.shape)


def check(model: ir.Model) -> None:
    """Holds the graph against the ONNX specification.

    Raises:
        InputError: it is not valid.
    """
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except onnx.checker.ValidationError as error:
        raise InputError(f"the graph is not valid ONNX: {first_line(error)}") from error


def _run_onnxsim(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim  # takes a while to load

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            simplified: onnx.ModelProto = onnxsim.simplify(proto, tensor_size_threshold=_LARGEST_FOLDED)[0]
    except Exception as error:  # onnxsim raises what its C++ passes and the runtime raise
        raise InputError(f"onnxsim cannot simplify the graph: {first_line(error)}") from error
    for tensor in simplified.graph.initializer:
        # Here, because onnx-ir keeps a tensor's own remarks out of reach.
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    return simplified


def _origins(model: ir.Model) -> tuple[dict[str, str], dict[str, str]]:
    """Module paths by node name and by value name."""
    by_node: dict[str, str] = {}
    by_value: dict[str, str] = {}
    for node in model.graph:
        scopes = node.metadata_props.get(NAME_SCOPES)
        if scopes is None:
            continue
        if node.name:
            by_node[node.name] = scopes
        by_value.update((value.name, scopes) for value in node.outputs if value.name)
    return by_node, by_value


def _strip_value(value: ir.Value) -> None:
    value.doc_string = None
    value.metadata_props.clear()
