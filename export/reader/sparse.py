"""Weights that a file stores sparsely become dense ones.

Before: ``sparse_initializer`` of a graph and ``sparse_value`` of a Constant: the values that are not zero, and their
places. After: an ``initializer`` and a ``value`` with the zeros. Sparse arithmetic no engine of ours has, so nothing is
lost. A file may claim more zeros than any memory holds: what is emptier than a weight can be is refused.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx

from radixrt.errors import InputError, first_line
from radixrt.export.reader.tensors import graphs_of

_EMPTIEST = 1 << 10
"""How many elements there may be for each that is stored; a small weight may be emptier."""
_SMALL = 1 << 20


def dense_weights(model: onnx.ModelProto, path: Path) -> None:
    """Makes them dense, in subgraphs and functions as well.

    Raises:
        InputError: places lie outside the weight or are not as many as the values, or it holds next to nothing.
    """
    for graph in graphs_of(model):
        if isinstance(graph, onnx.GraphProto) and graph.sparse_initializer:
            graph.initializer.extend(_dense(tensor, tensor.values.name, path) for tensor in graph.sparse_initializer)
            del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.HasField("sparse_tensor"):
                    dense = _dense(attribute.sparse_tensor, node.output[0], path)
                    attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _dense(tensor: onnx.SparseTensorProto, name: str, path: Path) -> onnx.TensorProto:
    shape, held = tuple(tensor.dims), math.prod(tensor.values.dims)
    if min(shape, default=1) < 0 or math.prod(shape) > max(held * _EMPTIEST, _SMALL):
        raise InputError(
            f"{path}: the sparse weight {name} claims the shape {list(shape)} for {held} values: export it dense"
        )
    try:
        values = onnx.numpy_helper.to_array(tensor.values).ravel()
        places = onnx.numpy_helper.to_array(tensor.indices).astype(np.int64)
        dense = np.zeros(math.prod(shape), values.dtype)
        flat = np.ravel_multi_index(tuple(places.T), shape) if places.ndim == 2 else places
        if len(flat) != len(values) or (flat < 0).any():
            raise ValueError(f"{len(values)} values and {len(flat)} places")
        dense[flat] = values
    except (ValueError, IndexError, TypeError) as error:  # numpy's, for places and bytes that do not fit
        raise InputError(
            f"{path}: the sparse weight {name} is damaged ({first_line(error)}): export it again, or dense"
        ) from error
    return onnx.numpy_helper.from_array(dense.reshape(shape), name)
