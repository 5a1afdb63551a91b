"""What a network is taken for: its task, by what it puts out and what its images are labelled with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.source import DataSource
from radixrt.calibration.data.targets import TargetKind
from radixrt.export.source.load import LoadedModel
from radixrt.validate.answers.ctc import parse_characters
from radixrt.validate.tasks.base import Interface, Outputs
from radixrt.validate.tasks.choose import Chosen, choose, interface_of
from radixrt.validate.user_task import UserDecoder, UserMetric, UserTask, decoded_interface

TRIED = 32
"""Images that a metric of the user's is tried on before anything long starts."""


@dataclass(frozen=True)
class Images:
    """A network's images.

    Attributes:
        source: as their labels look.
        lent: nobody named them: they show what they show, not what the network was trained on.
        read: reads them anew with labels of another kind.
    """

    source: DataSource
    lent: bool
    read: Callable[[TargetKind], DataSource]


@dataclass(frozen=True)
class UserCode:
    """What of a task is the user's own."""

    metric: UserMetric | None = None
    decoder: UserDecoder | None = None

    @classmethod
    def read(cls, metric: Path | str | None, decode: Path | str | None) -> UserCode:
        """Imports what was named, as ``--metric`` and ``--decode`` take it, which runs it.

        Raises:
            InputError: there is no such function.
        """
        judges = None if metric is None else UserMetric.read(str(metric))
        return cls(judges, None if decode is None else UserDecoder.read(str(decode)))


@dataclass(frozen=True)
class TakenFor:
    """A network with its task.

    Attributes:
        network: what it puts out, as the task sees it.
        task: the task, and why.
        images: with labels as the task reads them.
        labels: the names of the head's classes; empty where nobody knows them.
        labelled: the test's labels are such as the task is judged by.
    """

    network: Interface
    task: Chosen
    images: DataSource
    labels: tuple[str, ...]
    labelled: bool


def taken_for(
    name: str | None,
    code: UserCode,
    model: LoadedModel,
    graph: ir.Graph,
    images: Images,
    answer: Callable[[Batch], Outputs],
) -> TakenFor:
    """Chooses a network's task, and looks at its images' labels before anything long starts.

    Args:
        name: the task, where it was named.
        code: the user's own.
        model: the network.
        graph: its graph.
        images: its images.
        answer: gives the original's outputs, which a decoder and a metric of the user's are tried on.

    Raises:
        InputError: the network's outputs cannot be the task's, a label cannot be used, or the user's code fails.
    """
    data = images.source
    bare = interface_of(graph)
    kind = None if images.lent or data.test is None else data.kind
    seen = bare
    if code.decoder is not None:
        few = next((data.test or data.calibration).batches(2))
        seen = decoded_interface(code.decoder, bare, answer(few))
    fits = kind is TargetKind.CLASSES and _labels_fit(data.labels, model, seen.classes)
    named = fits or (kind is TargetKind.LABELS and len(data.labels) == seen.classes)
    labels = tuple(model.labels or (data.labels if named else ()))
    called = labels or (data.labels if kind is TargetKind.BOXES else ())  # by place, which need not be the network's
    characters = parse_characters(model.characters)
    network = replace(seen, labels=called, labelled=fits, targets=kind, data_classes=data.labels, characters=characters)
    chosen = choose(name, network)
    labels = chosen.task.classes_of(network) or labels
    if kind is not None and kind not in chosen.task.reads and name is None and chosen.task.reads:
        data = images.read(chosen.task.reads[0])
        network = replace(network, targets=data.kind)
    if data.test is not None and network.targets in chosen.task.reads:
        chosen.task.check(network, data.test)
    if code != UserCode():
        task = UserTask(chosen.task, bare, code.metric, code.decoder)
        batch = next((data.test or data.calibration).batches(TRIED))
        task.try_out(network, answer(batch), batch)
        chosen = replace(chosen, task=task)
    return TakenFor(network, chosen, data, labels, chosen.task.judged_by(network))


def _labels_fit(data: Sequence[str], model: LoadedModel, classes: int) -> bool:
    """Whether the data's labels are classes of the head: the names agree, or their number where it has none."""
    if not data or not classes:
        return False
    return tuple(data) == tuple(model.labels) if model.labels else len(data) == classes
