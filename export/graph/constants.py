"""Constants of a graph: read one, add one, drop one that nothing reads any more."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def is_constant(value: ir.Value) -> bool:
    """Whether a value is an initializer or the output of a Constant node."""
    return ir.convenience.get_const_tensor(value) is not None


def array_of(value: ir.Value) -> NDArray[Any]:
    """Returns the numbers of a constant.

    Raises:
        ValueError: the value is not a constant (ask :func:`is_constant` first).
    """
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise ValueError(f"{value.name} is not a constant")
    return tensor.numpy()


def initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Adds a constant, or returns the one of that name: let the name say what it was made from, and how."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def forget(graph: ir.Graph, value: ir.Value) -> None:
    """Drops a constant that nothing reads any more; a no-op for one that is read."""
    if value.uses() or value.is_graph_output() or value in graph.inputs:
        return
    producer = value.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    elif value.name is not None and value.name in graph.initializers:
        del graph.initializers[value.name]
