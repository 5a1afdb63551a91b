"""Runs the ``radixrt`` command in this process, as ``main`` does, and keeps what it printed."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

COMMAND = (sys.executable, "-c", "import sys; sys.argv[0] = 'radixrt'; from radixrt.cli import main; main()")
"""``radixrt`` in a process of its own."""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What was said on standard error, on one line."""
        return " ".join(self.err.split())


def radixrt(*words: object) -> Done:
    from radixrt.cli import main

    out, err = io.StringIO(), io.StringIO()
    argv = ["radixrt", *(str(word) for word in words)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Done(code, out.getvalue(), err.getvalue())
