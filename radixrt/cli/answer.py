"""What ``--json`` and ``--quiet`` make of a command: an answer for programs, and fewer words for people."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from radixrt.errors import InputError

if TYPE_CHECKING:
    from radixrt.validate.schema import Report

# The commands whose options have both.
COMMANDS = ("engine", "validate")
STDOUT = "-"


@dataclass
class Answer:
    """What one run has to tell a program, gathered while it runs.

    Attributes:
        to: the file that takes it as JSON, ``-`` for standard output; None where no program asks.
        quiet: people get one line for each engine.
        engines: reports, each with the folder that holds it, or None where none was written.
        comparison: the page that puts several engines side by side.
    """

    to: str | None = None
    quiet: bool = False
    engines: list[tuple[Report, Path | None]] = field(default_factory=list)
    comparison: Path | None = None

    @classmethod
    def asked_for(cls, words: Sequence[str]) -> Answer:
        """Reads off a command line how it wants its answer: one that cannot be understood gets it too."""
        answer = cls()
        if not words or words[0] not in COMMANDS:
            return answer
        for word, following in zip(words, [*words[1:], "--"], strict=True):
            name, given, value = word.partition("=")
            if name == "--json":
                value = value if given else following
                answer.to = None if value.startswith("--") else value
            answer.quiet |= word == "--quiet"
        return answer

    @staticmethod
    def of_this_run() -> Answer:
        """The answer that the command running now fills; a fresh one where none is."""
        return _CURRENT.get(None) or Answer()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Makes it the one of this run."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    @contextlib.contextmanager
    def alone_on_stdout(self) -> Iterator[None]:
        """Sends to standard error whatever else would be printed, also by libraries and by child processes."""
        if self.to != STDOUT:
            yield
            return
        sys.stdout.flush()
        with contextlib.ExitStack() as stack:
            # Where Python's standard output is not the process's, only Python's is ours to turn.
            with contextlib.suppress(OSError, ValueError):
                if sys.stdout.fileno() == 1:
                    kept = os.dup(1)
                    stack.callback(os.close, kept)
                    stack.callback(os.dup2, kept, 1)
                    os.dup2(2, 1)
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            yield

    def write(self, command: str, code: int, error: str) -> bool:
        """Writes the JSON object where one was asked for.

        Returns:
            False where the file cannot be written, which was said then.
        """
        if self.to is None:
            return True
        from radixrt import __version__
        from radixrt.files import replace_file
        from radixrt.validate.report.answer import EngineAnswer, RunAnswer

        text = RunAnswer(
            radixrt=__version__,
            command=command,
            exit_code=code,
            passed=code == 0,
            error=error or None,
            engines=[EngineAnswer.of(report, folder) for report, folder in self.engines],
            comparison=self.comparison,
        ).to_json()
        if self.to == STDOUT:
            print(text, end="", flush=True)
            return True
        try:
            replace_file(Path(self.to), text.encode())
        except InputError as failed:
            from radixrt.cli.app import fail

            fail(failed)
            return False
        return True


_CURRENT: ContextVar[Answer] = ContextVar("answer")
