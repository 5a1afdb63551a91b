"""A captured graph becomes a clean one: folded, checked, every shape known, no trace of the exporting machine.

Before: the exporter's graph (or an ONNX file), with stack traces, local paths and perhaps chains of Shape nodes.
After: the graph as onnxsim leaves it, valid for ``onnx.checker``, each value with a type and a shape, and the torch
module path on each node, as ``pkg.torch.onnx.name_scopes`` or in its name. onnxsim drops node metadata; it is put back
by the names of the values that nodes compute.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.errors import InputError
from radixrt.export.names import NAME_SCOPES

_PROTOBUF_LIMIT = 1 << 31
_ROOM = 1 << 26  # what a graph needs beside its weights, generously


def simplify(model: ir.Model) -> ir.Model:
    """Folds, checks and cleans a graph. ``model`` itself is not changed.

    Raises:
        InputError: the graph is not valid ONNX, cannot be simplified, or a shape in it cannot be inferred.
    """
    origins = _origins(model)
    proto = ir.to_proto(model)
    import onnxsim  # takes a while to load

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            proto, _ = onnxsim.simplify(proto)
    except Exception as error:  # onnxsim raises what its C++ passes and the runtime raise
        raise InputError(f"onnxsim cannot simplify the graph: {str(error).splitlines()[0]}") from error
    result: ir.Model = ir.from_proto(proto)
    _restore(result, origins)
    strip_metadata(result)
    infer_shapes(result)
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
            value.doc_string = None
            value.metadata_props.clear()
        for node in graph:
            node.doc_string = None
            scopes = node.metadata_props.get(NAME_SCOPES)
            node.metadata_props.clear()
            if scopes is not None:
                node.metadata_props[NAME_SCOPES] = scopes
            for value in node.outputs:
                value.doc_string = None
                value.metadata_props.clear()


def infer_shapes(model: ir.Model) -> None:
    """Infers the type and shape of every value.

    Raises:
        InputError: a value stays without one.
    """
    common.ShapeInferencePass()(model)
    for node in model.graph:
        for value in node.outputs:
            if value.name and (value.shape is None or value.dtype is None):
                raise InputError(f"the shape of {value.name!r} (a {node.op_type}) cannot be inferred")


def check(model: ir.Model) -> None:
    """Holds the graph against the ONNX specification.

    Raises:
        InputError: it is not valid.
    """
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except onnx.checker.ValidationError as error:
        raise InputError(f"the graph is not valid ONNX: {str(error).splitlines()[0]}") from error


def write_onnx(model: ir.Model, path: Path) -> None:
    """Writes ``model`` to ``path`` in one step: a reader sees the old file or the new one, never a part.

    Weights of 2 GB or more, which protobuf cannot hold, go to ``<name>.data`` beside it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        ir.save(model, temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def weight_bytes(model: ir.Model) -> int:
    """The bytes of the graph's weights."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _origins(model: ir.Model) -> dict[str, str]:
    return {
        value.name: node.metadata_props[NAME_SCOPES]
        for node in model.graph
        if NAME_SCOPES in node.metadata_props
        for value in node.outputs
        if value.name
    }


def _restore(model: ir.Model, origins: dict[str, str]) -> None:
    for node in model.graph:
        for value in node.outputs:
            if value.name in origins:
                node.metadata_props[NAME_SCOPES] = origins[value.name]
