"""What a person sees while a build runs: the stage, how far it is, and what is left.

Each stage that is done, and each sentence that the user should not miss, is a record of the logger ``radixrt``, which
an application sets as it likes; without handlers it says nothing. :func:`shown` prints its records on a console. The
running stage has a live bar beside that, on a terminal only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

T = TypeVar("T")

LOGGER = logging.getLogger("radixrt")
LOGGER.addHandler(logging.NullHandler())


class Stages:
    """A display of named stages, which it numbers as they come.

    Args:
        console: where the bar of the running stage is shown, if it is a terminal; nowhere without one.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._started = 0
        self._task: TaskID | None = None
        self._label = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=console is None or not console.is_terminal,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Marks one stage: shown while it runs, and logged with its time once it is over."""
        self._started += 1
        label = f"[{self._started}] {name}"
        start = time.monotonic()
        with self._progress:
            self._task, self._label = self._progress.add_task(label, total=None), label
            try:
                yield
            finally:
                self._progress.remove_task(self._task)
                self._task = None
        LOGGER.info("%s (%.1f s)", label, time.monotonic() - start)

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
        """Logs a sentence that the user should not miss."""
        LOGGER.warning("%s", text)


class _OnConsole(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def shown(console: Console) -> Iterator[None]:
    """Prints what the logger ``radixrt`` says on a console; its level and handlers are put back afterwards."""
    handler, level = _OnConsole(console), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
