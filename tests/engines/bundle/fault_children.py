"""What the fault tests run in processes of their own, to be killed there.

Every generation of the bundle carries its number twice: as the only label in the manifest, and in the engine's bytes. A
mixture of two generations shows as two different numbers.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from radixrt.cli.interrupt import exit_on_sigterm
from radixrt.engines.bundle import atomic
from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.errors import InputError
from tests.engines.bundle.bundles import manifest

# Builds that follow each other at once would leave no reader the time to verify one.
REST_S = 0.005

# A file-system operation that Python is about to do, as its audit events name it.
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "fcntl.flock", "os.truncate")


def write_generation(output: Path, number: int) -> None:
    with BundleWriter(output) as writer:
        (writer.folder / "deploy.onnx").write_bytes(b"graph")
        (writer.folder / "engine.onnx").write_bytes(str(number).encode() * 500)
        complete = manifest().model_copy(update={"labels": (str(number),)})
        writer.finish(complete)


def read_generation(output: Path) -> int:
    """The generation of a whole bundle.

    Raises:
        InputError: there is none, or it is not whole.
        AssertionError: it is a mixture.
    """
    bundle = Bundle.read(output)
    (label,) = bundle.manifest.labels
    try:
        data = bundle.engine.read_bytes()
        bundle.check_unchanged()
    except (InputError, FileNotFoundError):  # replaced meanwhile; where no exchange is had, there is a gap between two
        return read_generation(output)
    assert data == label.encode() * 500, "the engine is of another generation than the manifest"
    return int(label)


def write_forever(output: Path, first: int, log: Path, exchange: bool, ready: Connection) -> None:
    """Writes generation after generation and logs each one that is finished."""
    if not exchange:
        without_exchange()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    number = first
    ready.send("starting")
    while True:
        write_generation(output, number)
        os.write(descriptor, f"{number}\n".encode())
        number += 1
        time.sleep(REST_S)


def write_until_step(output: Path, number: int, step: int, exchange: bool) -> None:
    """Writes one generation and kills itself just before its ``step``-th file-system operation."""
    if not exchange:
        without_exchange()
    seen = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write_generation(output, number)


def write_slowly(output: Path, ready: Connection) -> None:
    """Is in the middle of a build until a signal ends it."""
    with exit_on_sigterm(), BundleWriter(output) as writer:
        (writer.folder / "engine.onnx").write_bytes(b"half")
        ready.send("in the middle")
        signal.pause()


def without_exchange() -> None:
    """Makes this process's file systems ones that cannot swap two names in one step."""
    atomic.exchange = lambda first, second: False
