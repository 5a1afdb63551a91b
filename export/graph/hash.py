"""The two hashes of a graph, which answer two questions.

``graph_sha256``: is this the same file, byte for byte? It keeps apart what later stages read of a graph: its metadata,
such as where each node comes from, goes into reports and rewrites. Results of stages are kept under it.

``model_sha256``: does this graph compute the same on tensors of the same names? Exporters write metadata anew in each
version and each run; a calibration table that took minutes to collect must survive that.
"""

from __future__ import annotations

import hashlib

import onnx_ir as ir


def graph_sha256(model: ir.Model) -> str:
    """The hash of a graph with its weights and its metadata."""
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def model_sha256(model: ir.Model) -> str:
    """The hash of what a graph computes: operations, attributes, names and weights, metadata left out."""
    digest = hashlib.sha256()

    def put(*parts: object) -> None:
        digest.update("\x1f".join(str(p) for p in parts).encode() + b"\x1e")

    put(*sorted(f"{d}:{v}" for d, v in model.opset_imports.items()))
    for value in (*model.graph.inputs, *model.graph.outputs):
        put("io", value.name, value.dtype, value.shape)
    for name in sorted(model.graph.initializers):
        tensor = model.graph.initializers[name].const_value
        if tensor is not None:
            put("init", name, tensor.dtype, tuple(tensor.shape))
            digest.update(tensor.tobytes())
    for node in model.graph:
        put("node", node.domain, node.op_type, *("" if v is None else v.name for v in (*node.inputs, *node.outputs)))
        for key in sorted(node.attributes):
            attribute = node.attributes[key]
            if attribute.type == ir.AttributeType.TENSOR:
                put(key)
                digest.update(attribute.as_tensor().tobytes())
            else:
                put(key, attribute.type, attribute.value)
    return digest.hexdigest()
