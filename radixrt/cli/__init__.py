"""The ``radixrt`` command: runs a command, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import sys

from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

from radixrt.cli.app import app, err
from radixrt.cli.interrupt import exit_on_sigterm
from radixrt.errors import InputError, RadixRTError
from radixrt.progress import shown


def main() -> None:
    """Runs the command; an error of ours is one sentence and its exit code."""
    try:
        with exit_on_sigterm(), shown(err):
            app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        error.verbose = False
        text = " ".join(str(error).split())
        if isinstance(error, UnusedCliTokensError):
            called = " ".join(("radixrt", *(error.command_chain or ())))
            text = f"{' '.join(error.unused_tokens or ())} is one argument too many: see `{called} --help`"
        _fail(InputError(text))
    except RadixRTError as error:
        _fail(error)
    except KeyboardInterrupt:
        err.print("Interrupted: what stood there before stands there still.")
        sys.exit(130)


def _fail(error: RadixRTError) -> None:
    err.print(f"[red]{'Failed' if error.exit_code == 3 else 'Error'}:[/red] ", end="")
    err.print(str(error), markup=False, soft_wrap=True)
    sys.exit(error.exit_code)
