"""The errors RadixRT raises, and the exit code each one stands for.

::

    RadixRTError                  exit 1   a bug, unless it is one of those below
    ├── InputError                exit 2   bad usage or bad input: the message says what, where, and how to mend it
    ├── GateError                 exit 3   a gate failed: the bundle is kept, and says so
    └── UnavailableError          exit 4   the target is not available here: the reason, and how to install it

A message is one sentence for the person who typed the command. Chain the cause with ``raise ... from``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError


class RadixRTError(Exception):
    """Base of every error raised on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(RadixRTError):
    """What the user gave cannot be used."""

    exit_code: ClassVar[int] = 2


class GateError(RadixRTError):
    """The engine was built, and missed a limit that it was held against."""

    exit_code: ClassVar[int] = 3


class UnavailableError(RadixRTError):
    """A target or an optional library is not on this machine.

    Args:
        what: the target or library, as the user named it.
        reason: why it cannot be used.
        hint: the command or step that makes it available.
    """

    exit_code: ClassVar[int] = 4

    def __init__(self, what: str, reason: str, hint: str) -> None:
        super().__init__(f"{what} is not available: {reason}. {hint}")
        self.what, self.reason, self.hint = what, reason, hint


def first_line(error: BaseException) -> str:
    """The message of another library's error, as far as it fits a sentence: its first line, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def first_fault(error: ValidationError) -> str:
    """Where a file breaks its schema first, and how: ``rows.3.name: Field required``."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole file"
    return f"{where}: {first['msg']}"
