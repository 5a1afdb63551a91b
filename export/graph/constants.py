"""Constants of a graph: read one, or drop one that nothing reads any more (``GraphWriter`` writes them)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def is_constant(value: ir.Value) -> bool:
    """Whether a value is an initializer or the output of a Constant node."""
    return ir.convenience.get_const_tensor(value) is not None


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array behind an initializer or constant; None for what is computed or fed."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def array_of(value: ir.Value) -> NDArray[Any]:
    """Returns the numbers of a constant.

    Raises:
        ValueError: the value is not a constant (ask :func:`is_constant` first).
    """
    array = constant(value)
    if array is None:
        raise ValueError(f"{value.name} is not a constant")
    return array


def forget(graph: ir.Graph, value: ir.Value) -> None:
    """Drops a constant that nothing reads any more; a no-op for one that is read."""
    if value.uses() or value.is_graph_output() or value in graph.inputs:
        return
    producer = value.producer()
    if producer is not None:
        graph.remove(producer, safe=True)
    elif value.name is not None and value.name in graph.initializers:
        del graph.initializers[value.name]
