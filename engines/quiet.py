"""A timing alone on its machine, where several builds share it.

Work goes on side by side under a shared lock; whoever times something takes the machine for itself: no new work
begins, and the timing starts when the work that is under way has come to the end of a step, such as a batch of
images. The locks are the kernel's, on two files of the machine: they hold between processes whoever started them, and
one that is killed lets go.

::

    <temporary folder>/radixrt-<user>/work      shared by whoever works, exclusive for whoever times
    <temporary folder>/radixrt-<user>/queue     held by whoever waits for the machine, so that no new work begins

A process that shares its machine with nobody (all but the jobs of a sweep) takes no lock: :func:`alone` does nothing.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from radixrt.errors import InputError
from radixrt.files import translate_disk_errors


def shared_folder() -> Path:
    """The folder below the temporary one that all jobs of a user find on this machine.

    Raises:
        InputError: it cannot be made, or is not this user's.
    """
    folder = Path(tempfile.gettempdir(), f"radixrt-{os.getuid()}")
    with translate_disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise InputError(f"{folder} belongs to another user: set TMPDIR to a folder of your own")
    return folder


class Machine:
    """This process's place on a machine that is shared.

    Args:
        folder: where the machine's locks are; by default the one that all jobs of a user find.
        turn: told True when this process gets the machine for itself, and False when it shares it again.

    Attributes:
        waited_s: how long this process has stood still for the others.
        timed_s: how long it has had the machine for itself.
    """

    def __init__(self, folder: Path | None = None, turn: Callable[[bool], None] = lambda alone: None) -> None:
        self._turn = turn
        folder = folder or shared_folder()
        self._work = os.open(folder / "work", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._queue = os.open(folder / "queue", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._timing = self._working = False
        self.waited_s = self.timed_s = 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Works beside others, and makes :func:`alone` and :func:`away` of this machine."""
        token = _PLACE.set(self)
        self._begin()
        self._turn(False)
        try:
            yield
        finally:
            self._turn(True)
            self._end()
            _PLACE.reset(token)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Has the machine for itself."""
        if self._timing:
            yield
            return
        self._end()
        started = time.monotonic()
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        fcntl.flock(self._work, fcntl.LOCK_EX)
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        self._timing, began = True, time.monotonic()
        self.waited_s += began - started
        self._turn(True)
        try:
            yield
        finally:
            self._turn(False)
            self._timing = False
            self.timed_s += time.monotonic() - began
            fcntl.flock(self._work, fcntl.LOCK_UN)
            self._begin()

    def give_way(self) -> None:
        """Lets whoever waits for the machine have it first; called between the steps of long work.

        Else a timing would wait for the end of a calibration beside it, and its process with it.
        """
        if self._timing or not self._working:
            return
        try:
            fcntl.flock(self._queue, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._end()
            self._begin()
        else:
            fcntl.flock(self._queue, fcntl.LOCK_UN)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Waits for something without keeping anybody from timing."""
        if self._timing or not self._working:
            yield
            return
        self._end()
        try:
            yield
        finally:
            self._begin()

    def close(self) -> None:
        """Leaves the machine to the others."""
        os.close(self._work)
        os.close(self._queue)

    def _begin(self) -> None:
        started = time.monotonic()
        fcntl.flock(self._queue, fcntl.LOCK_SH)
        fcntl.flock(self._work, fcntl.LOCK_SH)
        fcntl.flock(self._queue, fcntl.LOCK_UN)
        self._working = True
        self.waited_s += time.monotonic() - started

    def _end(self) -> None:
        self._working = False
        fcntl.flock(self._work, fcntl.LOCK_UN)


_PLACE: ContextVar[Machine | None] = ContextVar("machine", default=None)


@contextmanager
def alone() -> Iterator[None]:
    """Put around a timing: it has the machine for itself, where the machine is shared."""
    place = _PLACE.get()
    if place is None:
        yield
        return
    with place.alone():
        yield


@contextmanager
def away() -> Iterator[None]:
    """Put around a wait for somebody else's work: nobody who times must wait for it too."""
    place = _PLACE.get()
    if place is None:
        yield
        return
    with place.away():
        yield
