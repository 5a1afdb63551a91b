"""Keeps what libraries say while they work from the terminal, and the caller's own logging as it was."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_ABOVE_ALL = logging.CRITICAL + 1


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Drops warnings, printed lines and the records of some libraries' loggers.

    Args:
        loggers: names of loggers; those below them are silenced too. All others go on as they did.
    """
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        # A logger that is made meanwhile takes its level from the one above it.
        named = [logging.getLogger(name) for name in loggers]
        below = tuple(f"{name}." for name in loggers)
        made = [log for log in logging.root.manager.loggerDict.values() if isinstance(log, logging.Logger)]
        silenced = {log: log.level for log in (*named, *(log for log in made if log.name.startswith(below)))}
        for log in silenced:
            log.setLevel(_ABOVE_ALL)
        try:
            yield
        finally:
            for log, level in silenced.items():
                log.setLevel(level)
