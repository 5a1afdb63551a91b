"""The ``radixrt`` command: gathers the commands and turns errors into one sentence and an exit code."""

from __future__ import annotations

import sys

from radixrt.cli import bundle, engine, sensitivity, steps  # noqa: F401  # importing them adds their commands to `app`
from radixrt.cli.app import app, err
from radixrt.cli.interrupt import exit_on_sigterm
from radixrt.errors import RadixRTError
from radixrt.progress import shown


def main() -> None:
    """Runs the command; an error of ours is one sentence and its exit code."""
    try:
        with exit_on_sigterm(), shown(err):
            app()
    except RadixRTError as error:
        err.print(f"[red]{'Failed' if error.exit_code == 3 else 'Error'}:[/red] ", end="")
        err.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        err.print("Interrupted: what stood there before stands there still.")
        sys.exit(130)
