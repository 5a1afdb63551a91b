"""Which task a network is judged by: the one that was named, or what its outputs and the data say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError
from radixrt.export.graph.output_kind import output_kinds, rowless
from radixrt.validate.tasks.base import Interface, Task
from radixrt.validate.tasks.classify import Classify
from radixrt.validate.tasks.detect import Detect
from radixrt.validate.tasks.embed import Embed
from radixrt.validate.tasks.multilabel import Multilabel
from radixrt.validate.tasks.regress import Regress
from radixrt.validate.tasks.segment import Segment
from radixrt.validate.tasks.tensors import Tensors
from radixrt.validate.tasks.text import Text

_ALL: tuple[Task, ...] = (Classify(), Multilabel(), Regress(), Embed(), Segment(), Detect(), Text(), Tensors())
TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}

_MOVES = frozenset({"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"})


@dataclass(frozen=True)
class Chosen:
    """A task, and why it was taken, to follow "because"."""

    task: Task
    why: str

    @property
    def sentence(self) -> str:
        """The choice for the report."""
        return f"The task is {self.task.name}, because {self.why}."


def choose(name: str | None, network: Interface) -> Chosen:
    """Takes the task that was named, or reads it off.

    Args:
        name: as ``--task`` takes it; None reads the task off the network and the data.
        network: what is to be judged.

    Raises:
        InputError: there is no such task, or the network's outputs cannot be its.
    """
    if name is None:
        return _read_off(network)
    refuse_unknown(name)
    task = TASKS[name]
    if (refusal := task.refusal(network)) is not None:
        raise InputError(f"this network cannot {name}: {refusal}; leave --task out, or choose tensors")
    return Chosen(task, "it was asked for")


def refuse_unknown(name: str | None) -> None:
    """Refuses a task that does not exist.

    Raises:
        InputError: there is no such task.
    """
    if name is not None and name not in TASKS:
        raise InputError(f"there is no task {name!r}: choose one of {', '.join(TASKS)}")


def kind_read_by(name: str | None) -> TargetKind | None:
    """How a table is read for a task that was named."""
    return next(iter(TASKS[name].reads), None) if name is not None else None


def _read_off(network: Interface) -> Chosen:
    what = f"the main output is {network.described}"
    kind = network.targets
    if kind is not None and kind in _BY_DATA and TASKS[_BY_DATA[kind]].refusal(network) is None:
        return Chosen(TASKS[_BY_DATA[kind]], f"{what} and the images are labelled with {kind.value}")
    if network.labelled:
        return Chosen(TASKS["classify"], f"{what} and the data has as many classes")
    if (found := _by_other_classes(network, what)) is not None:
        return found
    if network.classes < 2:
        return Chosen(TASKS["tensors"], f"{what}, of which no metric is known")
    if network.end in _NO_ANSWER:
        why = f"{what} and ends in {_NO_ANSWER[network.end]}, and no labels of its classes are known"
        return Chosen(TASKS["tensors"], why)
    return Chosen(TASKS["classify"], f"{what}, a number for each of {network.classes} classes")


def _by_other_classes(network: Interface, what: str) -> Chosen | None:
    """What a network can be whose data is labelled with classes that are not its head's."""
    if network.targets is not TargetKind.CLASSES:
        return None
    numbered = all(name.isdigit() for name in network.data_classes)
    if TASKS["regress"].refusal(network) is None and network.classes < 2 and numbered:
        return Chosen(TASKS["regress"], f"{what} and the images are labelled with whole numbers")
    if network.classes < 2 or network.labels or network.classes in _OF_IMAGENET:
        return None
    ending = _NO_ANSWER.get(network.end) if network.end in _NORMALISATIONS else None
    others = f"the images are labelled with {len(network.data_classes)} identities"
    if ending is not None:
        return Chosen(TASKS["embed"], f"{what} and ends in {ending}, and {others}")
    if network.end == "Sigmoid" or network.classes < len(network.data_classes):
        return None
    return Chosen(TASKS["embed"], f"{what}, which is not a number for each class: {others}")


_BY_DATA = {
    TargetKind.MASKS: "segment",
    TargetKind.LABELS: "multilabel",
    TargetKind.NUMBERS: "regress",
    TargetKind.BOXES: "detect",
    TargetKind.TEXTS: "text",
}
# Heads that anybody knows for a classifier's, whatever the images are labelled with.
_OF_IMAGENET = (1000, 1001, 21841, 21843)
_NORMALISATIONS = ("LpNormalization", "Div")
_NO_ANSWER = {
    "Sigmoid": "a Sigmoid, whose numbers answer a question each",
    "LpNormalization": "a normalisation, as embeddings do",
    "Div": "a normalisation, as embeddings do",
}


def end_of(output: ir.Value) -> str:
    """The operator that makes an output, what only moves or renames values left aside; empty for a constant Div."""
    node = output.producer()
    while node is not None and node.op_type in _MOVES and node.inputs and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None:
        return ""
    by = node.inputs[1] if node.op_type == "Div" else None
    # Divided by a constant is a temperature: the answer stays.
    return "" if by is not None and by.const_value is not None else str(node.op_type)


def interface_of(graph: ir.Graph, labels: tuple[str, ...] = (), labelled: bool = False) -> Interface:
    """What a graph puts out, with what the data says of it."""
    outputs, alone = list(graph.outputs), rowless(graph)
    return Interface(
        shapes={value.name or "": _shape_of(value, (value.name or "") in alone) for value in outputs},
        end=end_of(outputs[0]),
        floats=tuple(v.name or "" for v in outputs if v.dtype is not None and v.dtype.is_floating_point()),
        labels=labels,
        labelled=labelled,
        kind=output_kinds(graph)[outputs[0].name or ""],
    )


def _shape_of(value: ir.Value, alone: bool) -> list[int | str | None]:
    """An output's shape; boxes K x 4 that one image gives ``alone`` are N x K x 4 like anybody's."""
    shape = [side if isinstance(side, int) else side.value for side in value.shape or ()]
    return [1, *shape] if alone and value.shape is not None and 1 not in shape[1:2] else shape
