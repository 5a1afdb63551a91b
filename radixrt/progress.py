"""What a person sees while a build runs: the stage, how far it is, and what is left."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

T = TypeVar("T")


@dataclass
class Stages:
    """A display of named stages, on a terminal as a live bar and elsewhere as one line a stage.

    Args:
        console: where to write; a build's own results go to standard output, so this is standard error.
        total: how many stages the build has.
    """

    console: Console
    total: int
    _done: int = 0
    _progress: Progress = field(init=False)
    _task: TaskID | None = None
    _label: str = ""

    def __post_init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Marks one stage: shown while it runs, and as a line with its time once it is done."""
        self._done += 1
        label = f"[{self._done}/{self.total}] {name}"
        start = time.monotonic()
        with self._progress:
            self._task, self._label = self._progress.add_task(label, total=None), label
            try:
                yield
            finally:
                self._progress.remove_task(self._task)
                self._task = None
        self.console.print(f"{label} [dim]({time.monotonic() - start:.1f} s)[/dim]", highlight=False, soft_wrap=True)

    def track(self, items: Iterable[T], total: int | None) -> Iterator[T]:
        """Passes items through and moves the current stage's bar by one for each."""
        task = self._task
        if task is not None:
            self._progress.update(task, total=total, completed=0)
        for item in items:
            yield item
            if task is not None:
                self._progress.advance(task)

    def at(self, done: int, total: int, seconds_left: float | None = None) -> None:
        """Moves the current stage's bar, for work that counts its steps itself and may know how long the rest takes."""
        if self._task is not None:
            left = "" if seconds_left is None else f", about {seconds_left:.0f} s left"
            self._progress.update(self._task, total=total, completed=done, description=self._label + left)

    def phase(self, name: str, done: int, total: int) -> bool:
        """Shows a step of a build that has phases of its own beside the stage; never stops it."""
        if self._task is not None:
            self._progress.update(self._task, total=total, completed=done, description=f"{self._label}: {name}")
        return True

    def note(self, text: str) -> None:
        """Writes a sentence that the user should not miss."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
