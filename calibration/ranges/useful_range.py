"""A range ends where whatever reads the tensor no longer tells its numbers apart.

::

    x ──► Sigmoid ──► Mul ──► y         y of x = -9 is that of x = -90, to within a quarter of a step of y
    └──────────────────►┘

A hard swish is 0 below -3, GELU and SiLU vanish a little further down, a gate is full from some number on. What lies
beyond would take integers from the rest of a tensor that is quantised before such a function; an integer that
saturates says the same.

The function is computed as the graph has it: the nodes that read one number of the tensor at a time, and constants
besides, run on a line of numbers from the least to the largest that was seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from radixrt.calibration.ranges.table import CalibrationTable, Candidates, TensorRange
from radixrt.export.graph.constants import constant
from radixrt.export.graph.equivalence import region

Array = NDArray[Any]

_ARITHMETIC = frozenset({"Abs", "Add", "Clip", "Div", "Exp", "Identity", "Max", "Min", "Mul", "Neg", "Pow", "Sub"})
_RECTIFIERS = frozenset({"Elu", "Gelu", "HardSwish", "LeakyRelu", "Mish", "Relu", "Selu", "Softplus"})
_BY_NUMBER = _ARITHMETIC | _RECTIFIERS | {"Erf", "HardSigmoid", "Sigmoid", "Tanh"}
_STEPS = 4 * 255
"""Numbers that differ by one of so many parts of what a function comes to are the same in 8 bits."""
_POINTS = 4097
_WORTH = 0.03
"""An end of a range that is this share of it, or less, stays."""


def with_useful_ranges(graph: ir.Graph, table: CalibrationTable) -> CalibrationTable:
    """The table without what no reader of a tensor tells apart.

    Args:
        graph: the graph that the table belongs to.
        table: ranges of its tensors, as they were seen.
    """
    values = {value.name or "": value for node in graph for value in node.outputs}
    tensors = (_cut(values[t.name], t) if t.name in values else t for t in table.tensors)
    return table.model_copy(update={"tensors": tuple(tensors)})


def _cut(value: ir.Value, seen: TensorRange) -> TensorRange:
    if not seen.minimum < seen.maximum:
        return seen
    numbers = np.linspace(seen.minimum, seen.maximum, _POINTS, dtype=np.float32)
    results = _results(value, numbers)
    if not results or not all(np.isfinite(result).all() for result in results):
        return seen
    first, last = (min(_flat(result[::step]) for result in results) for step in (1, -1))
    low = float(numbers[first]) if first >= _WORTH * _POINTS else seen.minimum
    high = float(numbers[-1 - last]) if last >= _WORTH * _POINTS else seen.maximum
    if (low, high) == (seen.minimum, seen.maximum) or low >= high:
        return seen
    amax = max(-low, high)
    picked = {name: min(number, amax) for name, number in seen.candidates.model_dump().items()}
    return seen.model_copy(
        update={
            "minimum": low,
            "maximum": high,
            "amax": min(seen.amax, amax),
            "candidates": Candidates(**picked),
            "channel_minimum": tuple(min(max(number, low), high) for number in seen.channel_minimum),
            "channel_maximum": tuple(min(max(number, low), high) for number in seen.channel_maximum),
        }
    )


def _flat(result: Array) -> int:
    """How many numbers at the start of a line differ by less than 8 bits of the whole line show."""
    most, least = np.maximum.accumulate(result), np.minimum.accumulate(result)
    alike = most - least <= (result.max() - result.min()) / _STEPS
    return int(np.argmin(alike)) - 1 if not alike.all() else len(result) - 1


def _results(value: ir.Value, numbers: Array) -> list[Array]:
    """What the rest of the graph is given for numbers of a tensor; nothing where that is the tensor itself."""
    known: dict[ir.Value, Array] = {value: numbers}
    computed: set[ir.Node] = set()
    pending = [value]
    while pending:
        for node in pending.pop().consumers():
            if node not in computed and (result := _result(node, known)) is not None:
                computed.add(node)
                known[node.outputs[0]] = result
                pending.append(node.outputs[0])
    leaving = [v for v in known if v.is_graph_output() or any(node not in computed for node in v.consumers())]
    return [] if value in leaving else [known[v] for v in leaving]


def _result(node: ir.Node, known: dict[ir.Value, Array]) -> Array | None:
    """What a node makes of numbers; None where it reads anything but those and constants, or not one by one."""
    if node.domain or node.op_type not in _BY_NUMBER or len(node.outputs) != 1:
        return None
    feeds: dict[str, Array] = {}
    for read in node.inputs:
        if read is None:
            continue
        numbers = known.get(read)
        if numbers is None:
            fixed = constant(read)
            if fixed is None or fixed.size != 1:
                return None
            numbers = fixed.reshape(())
        feeds[read.name or ""] = numbers
    assert node.graph is not None
    # A model, not a node: Gelu is written out by the opset and types of one.
    model = region([node], node.outputs[0], feeds, node.graph.opset_imports[""])
    with np.errstate(all="ignore"):
        (result,) = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(result) if np.shape(result) == (_POINTS,) else None
