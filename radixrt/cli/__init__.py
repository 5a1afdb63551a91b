"""The ``radixrt`` command: runs a command, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import contextlib
import sys

from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

from radixrt.cli.answer import Answer
from radixrt.cli.app import app, err, fail, typed
from radixrt.cli.interrupt import exit_on_sigterm
from radixrt.errors import InputError, RadixRTError
from radixrt.progress import shown

INTERRUPTED = "Interrupted: what stood there before stands there still."


def main() -> None:
    """Runs the command; an error of ours is one sentence and its exit code, and the answer for a program has both."""
    answer = Answer.asked_for(sys.argv[1:])
    code, sentence = 1, "a bug: its traceback is on standard error"
    try:
        with answer.alone_on_stdout():
            code, sentence = _run(answer)
    finally:
        if not answer.write(typed(), code, sentence):
            code = InputError.exit_code
    sys.exit(code)


def _run(answer: Answer) -> tuple[int, str]:
    """Runs the command.

    Returns:
        The exit code, and the sentence on standard error.
    """
    try:
        with exit_on_sigterm(), contextlib.nullcontext() if answer.quiet else shown(err), answer.current():
            app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.verbose = False
        text = " ".join(str(error).split())
        if isinstance(error, UnusedCliTokensError):
            called = " ".join(("radixrt", *(error.command_chain or ())))
            text = f"{' '.join(error.unused_tokens or ())} is one argument too many: see `{called} --help`"
        return fail(InputError(text))
    except RadixRTError as error:
        return fail(error)
    except KeyboardInterrupt as stop:
        said = str(stop) or INTERRUPTED
        err.print(said, soft_wrap=True)
        return 130, said
    except SystemExit as stop:  # SIGTERM, and commands of the command line's own library
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        return code, INTERRUPTED if code else ""
    return 0, ""
