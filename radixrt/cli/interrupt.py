"""SIGTERM as an exception, so that a stopped build tidies up the way a failed one does."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM raises ``SystemExit(143)``, as Ctrl-C raises ``KeyboardInterrupt``.

    For commands, not for libraries: signal handlers belong to the process. Does nothing outside the main thread, which
    is the only one that may set a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except SystemExit as end:
        # A library that it came through, such as Ray, may have put a code of its own in the place.
        if stopped:
            raise SystemExit(128 + signal.SIGTERM) from end
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
