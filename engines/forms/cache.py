"""Measured choices between equal forms, kept between builds.

One JSON file: a list of entries, each a question (what was asked, of which target, version and device) with its
answer. A file that is damaged, or of another schema, counts as empty: measuring again is always right, only slower.
It is replaced by a rename, so a reader sees the old file or the new one, and written entries are merged with those
that another build has added meanwhile.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from radixrt.errors import InputError
from radixrt.files import cache_home, replace_file


class Question(BaseModel):
    """What a measurement is valid for.

    Attributes:
        kind: what is chosen, such as ``grouped-conv``.
        shape: the shape in words, with every figure that may change the answer.
        forms: the candidates, the original first: it stays unless another wins.
        precision: of the graph.
        target: the target's name.
        version: of the target's library.
        device: in words, with the number of threads where the clock decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    shape: str
    forms: tuple[str, ...]
    precision: str
    target: str
    version: str
    device: str


class Answer(BaseModel):
    """The form that won, and why: a clause for the report.

    An answer is not settled where the machine was too busy to tell forms apart: it holds for this build, the next
    one measures again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: str
    why: str
    settled: bool = True


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Question
    answer: Answer


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    # A new way of measuring is a new number: old answers are then no answers.
    schema_version: Literal[8] = 8
    entries: list[_Entry] = []


def default_cache() -> Path:
    """Returns the file in the user's cache folder."""
    return cache_home() / "forms.json"


class FormCache:
    """The answers of one file.

    Args:
        path: the JSON file, which need not exist; None keeps answers in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._answers = _read(path)

    def get(self, question: Question) -> Answer | None:
        """Returns the answer to a question asked before, or None."""
        return self._answers.get(question)

    def put(self, question: Question, answer: Answer) -> None:
        """Keeps an answer. A cache that cannot be written is no reason to fail a build: the answer stays in memory."""
        self._answers[question] = answer
        if self.path is None or not answer.settled:
            return
        self._answers = {**_read(self.path), **self._answers}
        entries = [_Entry(question=q, answer=a) for q, a in self._answers.items() if a.settled]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self.path, _File(entries=entries).model_dump_json(indent=1).encode())
        except (OSError, InputError):
            self.path = None


def _read(path: Path | None) -> dict[Question, Answer]:
    if path is None:
        return {}
    try:
        return {entry.question: entry.answer for entry in _File.model_validate_json(path.read_bytes()).entries}
    except (OSError, ValidationError):
        return {}
