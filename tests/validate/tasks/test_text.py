"""A reader's engine is judged by the characters and lines that it reads, and both strings are shown."""

from __future__ import annotations

import numpy as np

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.targets import TargetKind
from radixrt.validate.tasks.base import Interface, Trust
from radixrt.validate.tasks.choose import choose

CLASSES = ("", "a", "b", "c")
READER = Interface({"y": ("N", 6, 4)}, "Softmax", ("y",), targets=TargetKind.TEXTS, characters=("a", "b", "c"))


def spelled(*texts: str) -> np.ndarray:
    """What a network gives that reads these, a blank behind each letter."""
    scores = np.zeros((len(texts), 6, 4), np.float32)
    scores[:, :, 0] = 0.5
    for row, text in zip(scores, texts, strict=True):
        for place, letter in enumerate(text):
            row[2 * place, CLASSES.index(letter)] = 1.0
    return scores


def test_characters_and_lines_right() -> None:
    chosen = choose(None, READER)
    assert chosen.task.name == "text" and chosen.task.classes_of(READER) == CLASSES
    judge = chosen.task.judge(READER, Trust(True, 1.0))
    batch = Batch({"x": np.zeros((4, 3, 8, 16), np.float32)}, ("abc", "ab", "ca", "b"), ("0", "1", "2", "3"))
    judge.add({"y": spelled("abc", "ab", "ca", "c")}, {"y": spelled("abc", "aa", "ca", "b")}, batch)
    found = judge.result()
    characters, lines, agreement = found.metrics
    assert (characters.reference, characters.engine) == (1 - 1 / 8, 1 - 1 / 8)
    assert (lines.reference, lines.engine) == (0.75, 0.75)
    assert agreement.engine == 0.5
    (table,) = found.tables
    assert ["1", "ab", "ab", "aa"] in table.rows and ["3", "b", "c", "b"] in table.rows
    assert {example.image for example in found.examples} == {"1", "3"}
    assert all("engine" in example.text and example.panels for example in found.examples)


def test_a_reader_without_characters_is_refused() -> None:
    bare = Interface({"y": ("N", 6, 4)}, "Softmax", ("y",), targets=TargetKind.TEXTS)
    assert "--characters" in (choose(None, READER).task.refusal(bare) or "")
    assert choose(None, bare).task.name == "tensors"
