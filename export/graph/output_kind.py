"""What the numbers of a classifier's output are: the node that made them decides, behind what only moves them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from radixrt.export.graph.facts import COMMUTING, static_dims

_KEEPS_VALUES = COMMUTING - {"Slice", "Split", "MaxPool"} | {"Cast", "DequantizeLinear", "QuantizeLinear", "Dropout"}
# What float32 tells from zero beside one: a quantised probability of zero is no proof that something cannot be.
_SMALLEST = 1e-7


class OutputKind(str, Enum):
    """What the numbers of one row (an image's classes) are.

    ``LOGITS`` become probabilities by a softmax; ``PROBABILITIES`` add up to one already. ``SCORES``, as a sigmoid
    makes them, lie between 0 and 1 and are independent. ``LOG_PROBABILITIES`` are logarithms of probabilities.
    """

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    SCORES = "scores"
    LOG_PROBABILITIES = "log-probabilities"

    def confidences(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """How sure each class of each row (images, classes) is, from 0 to 1."""
        numbers = values.astype(np.float64)
        if self is OutputKind.LOGITS:
            return np.asarray(softmax(numbers, axis=1))
        return np.exp(numbers) if self is OutputKind.LOG_PROBABILITIES else numbers

    def divergence(self, reference: NDArray[Any], engine: NDArray[Any]) -> NDArray[np.float64]:
        """The Kullback-Leibler divergence of each row of ``engine`` from that of ``reference``, in nats.

        Both are (images, classes). Scores are independent yes-or-no answers, whose divergences add up.
        """
        if self is OutputKind.LOGITS:
            log_ref, log_eng = log_softmax(reference, axis=1), log_softmax(engine, axis=1)
            return np.asarray((np.exp(log_ref) * (log_ref - log_eng)).sum(axis=1))
        ref, eng = (np.clip(self.confidences(values), _SMALLEST, 1.0) for values in (reference, engine))
        apart = ref * np.log(ref / eng)
        if self is OutputKind.SCORES:
            ref, eng = np.maximum(1 - ref, _SMALLEST), np.maximum(1 - eng, _SMALLEST)
            apart = apart + ref * np.log(ref / eng)
        return np.asarray(apart.sum(axis=1))


@dataclass(frozen=True)
class Head:
    """What a classifier's answer is made of: the names of its classes, where they are known, and its numbers."""

    classes: tuple[str, ...] = ()
    kind: OutputKind = OutputKind.LOGITS

    def name(self, index: int) -> str:
        """What a class is called; its number where nobody knows."""
        return self.classes[index] if index < len(self.classes) else str(index)


def output_kinds(graph: ir.Graph) -> dict[str, OutputKind]:
    """What each output is, by name.

    The first is the classifier's answer: logits where no node at its end says otherwise. Of the others only those that
    a softmax or sigmoid ends in are known.
    """
    found = {}
    for index, value in enumerate(graph.outputs):
        kind = _kind_of(value) or (OutputKind.LOGITS if index == 0 else None)
        if kind is not None:
            found[value.name or ""] = kind
    return found


def rowless(graph: ir.Graph) -> frozenset[str]:
    """The outputs without a row for each sample: whatever one sample gives, where a graph takes one at a time."""
    first = graph.inputs[0].shape
    if first is None or first[0] != 1:
        return frozenset()
    return frozenset(value.name or "" for value in graph.outputs if not value.shape or value.shape[0] != 1)


def _kind_of(value: ir.Value) -> OutputKind | None:
    while (node := value.producer()) is not None and node.op_type in _KEEPS_VALUES and node.inputs[0] is not None:
        value = node.inputs[0]
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Sigmoid", "HardSigmoid"):
        return OutputKind.SCORES
    if node.op_type in ("Softmax", "LogSoftmax"):
        if not _over_classes(node):
            return None
        return OutputKind.PROBABILITIES if node.op_type == "Softmax" else OutputKind.LOG_PROBABILITIES
    inside = {"Log": OutputKind.PROBABILITIES, "Exp": OutputKind.LOG_PROBABILITIES}.get(node.op_type)
    if inside is None or node.inputs[0] is None or _kind_of(node.inputs[0]) is not inside:
        return None
    return OutputKind.LOG_PROBABILITIES if node.op_type == "Log" else OutputKind.PROBABILITIES


def _over_classes(node: ir.Node) -> bool:
    """Whether a softmax runs over the only axis beside the batch that is longer than one."""
    axis, dims = node.attributes.get_int("axis", -1), static_dims(node.outputs[0])
    if not dims:
        return axis != 0
    axis %= len(dims)
    return axis != 0 and all(size == 1 for at, size in enumerate(dims) if at not in (0, axis))
