"""``text``: the main output holds a number for each step and character (CTC). Metric: characters and lines right.

Characters right are one minus the edits that turn what was read into the label, of all images together, by the
characters of the labels (torchmetrics' edit distance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.targets import TargetKind
from radixrt.engines.bundle.answers import read_text
from radixrt.errors import InputError
from radixrt.validate.answers.ctc import alphabet, steps_first
from radixrt.validate.bootstrap import measured, measured_shares
from radixrt.validate.measure.parity import ParityAccumulator
from radixrt.validate.quality import DetailTable, Metric, MetricSpec
from radixrt.validate.tasks.base import Example, Interface, Judge, Outputs, OutputsJudged, Panel, Task, Trust
from radixrt.validate.tasks.pictures import image_of, panel, pixels_of

CHARACTERS, LINES = MetricSpec("characters", "characters right"), MetricSpec("lines", "lines right")
AGREEMENT = MetricSpec("agreement", "lines alike", by_labels=False)
MOST_EXAMPLES = 12


class Text(Task):
    """N x T x C, or T x N x C, of a reader whose characters are known; from a CSV of path,text."""

    name = "text"
    reads = (TargetKind.TEXTS,)
    metrics = (CHARACTERS, LINES, AGREEMENT)

    def refusal(self, network: Interface) -> str | None:
        shape = network.shapes[network.main]
        if len(shape) != 3 or network.main not in network.floats:
            return f"its main output is {network.described}, not N x steps x characters"
        if not network.characters:
            return "nobody says which characters its classes are: name a file of them, one a line, with --characters"
        found = alphabet(network.characters, _classes(network)) if _classes(network) else ()
        return found if isinstance(found, str) else None

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Lines(network, trust)

    def check(self, network: Interface, images: Samples) -> None:
        letters = {letter for text in images.targets or () for letter in text} - {" "}
        if letters and not letters & set(network.characters):
            raise InputError(
                f"none of the texts' characters, such as {''.join(sorted(letters)[:5])!r}, is one of the network's: "
                "check the list of characters, or the column text"
            )

    def classes_of(self, network: Interface) -> tuple[str, ...]:
        return _alphabet(network, _classes(network)) if _classes(network) else ()


def _classes(network: Interface) -> int:
    size = network.shapes[network.main][-1]
    return size if isinstance(size, int) else 0


@dataclass(frozen=True)
class _Line:
    name: str
    label: str
    picture: Panel | None


class _Lines(Judge):
    def __init__(self, network: Interface, trust: Trust) -> None:
        self._network, self._trust = network, trust
        self._close = ParityAccumulator(main=network.main, classify=False)
        self._classes: tuple[str, ...] = ()
        self._originals: list[str] = []
        self._engines: list[str] = []
        self._lines: list[_Line] = []
        self._pictures = 0

    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        self._close.add_outputs(reference, engine, batch.names)
        count = len(batch.names)
        before, after = (steps_first(each[self._network.main], count) for each in (reference, engine))
        self._classes = self._classes or _alphabet(self._network, before.shape[2])
        for index, name in enumerate(batch.names):
            original, found = (read_text(scores[index], self._classes) for scores in (before, after))
            self._originals.append(original)
            self._engines.append(found)
            wanted = original != found and self._pictures < MOST_EXAMPLES
            image = image_of(batch, index) if wanted else None
            self._pictures += image is not None
            picture = panel("image", pixels_of(image), smooth=True) if image is not None else None
            self._lines.append(_Line(name, batch.targets[index] if batch.targets is not None else "", picture))

    def result(self) -> OutputsJudged:
        close, labels = self._close.result(), [line.label for line in self._lines]
        originals, engines = self._originals, self._engines
        wrong = _edits(originals, labels)
        alike = np.array([a == b for a, b in zip(originals, engines, strict=True)])
        metrics = [measured(AGREEMENT, lambda chosen: (1.0, float(alike[chosen].mean())), len(alike), None)]
        if self._labelled:
            metrics = [*self._metrics(wrong, _edits(engines, labels), labels), *metrics]
        changed = sorted(np.flatnonzero(~alike).tolist(), key=lambda i: int(wrong[i]))
        return OutputsJudged(
            close,
            metrics=metrics,
            tables=[self._table([(self._lines[i], originals[i], engines[i]) for i in changed])] if changed else [],
            examples=[
                Example(self._lines[i].name, self._said(i, originals[i], engines[i]), (picture,))
                for i in changed
                if (picture := self._lines[i].picture) is not None
            ],
        )

    @property
    def _labelled(self) -> bool:
        return self._trust.labelled

    def _metrics(self, wrong: NDArray[np.int64], worse: NDArray[np.int64], labels: list[str]) -> list[Metric]:
        length = np.array([len(label) for label in labels])

        def right(edits: NDArray[np.int64], chosen: NDArray[np.intp]) -> float:
            total = int(length[chosen].sum())
            return max(1 - int(edits[chosen].sum()) / total, 0.0) if total else float("nan")

        def both(chosen: NDArray[np.intp]) -> tuple[float, float]:
            return right(wrong, chosen), right(worse, chosen)

        limit = self._trust.max_drop_points
        return [measured(CHARACTERS, both, len(labels), limit), measured_shares(LINES, (wrong == 0, worse == 0), None)]

    def _said(self, index: int, original: str, engine: str) -> str:
        label = f"label {self._lines[index].label!r}, " if self._labelled else ""
        return f"{label}original {original!r}, engine {engine!r}"

    def _table(self, changed: list[tuple[_Line, str, str]]) -> DetailTable:
        with_label = ["label"] if self._labelled else []
        return DetailTable(
            title="Lines that are read otherwise",
            note="Those that the original reads best come first.",
            head=["image", *with_label, "original", "engine"],
            rows=[[line.name, *([line.label] if with_label else []), a, b] for line, a, b in changed[:200]],
        )


def _alphabet(network: Interface, classes: int) -> tuple[str, ...]:
    found = alphabet(network.characters, classes)
    if isinstance(found, str):
        raise InputError(f"the characters do not fit {network.main}: {found}")
    return found


def _edits(read: list[str], labels: list[str]) -> NDArray[np.int64]:
    """How many edits each text lies from its label."""
    from torchmetrics.functional.text import edit_distance

    # Mostly they are equal, and the library's distance is slow.
    return np.array([0 if a == b else int(edit_distance(a, b)) for a, b in zip(read, labels, strict=True)])
