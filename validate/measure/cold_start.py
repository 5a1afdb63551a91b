"""What an engine costs before its first answer: opening it, the first inference, and the memory of a process that does.

Measured in a process of its own that holds neither PyTorch nor the reference, so the peak is the engine's. The
runtime's own library is loaded before the clock starts: that is paid once for all engines of a process.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from radixrt.engines.registry import import_path
from radixrt.errors import RadixRTError

if TYPE_CHECKING:
    from radixrt.engines.base import Target

PROCESSOR_S = 300
"""Of processor time: on a busy machine, or while it is stopped, a process takes longer by the clock."""
CLOCK_S = 3600
"""After which a process waits for something that does not come."""


class ColdStart(BaseModel):
    """Milliseconds to open the engine and for the first inference at its smallest batch; peak resident bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    load_ms: float
    first_inference_ms: float
    peak_bytes: int


def cold_start(
    target: Target, engine: Path, *, threads: int = 0, batch: int = 1, free: Sequence[int] = ()
) -> ColdStart | str:
    """Opens an engine in a fresh process and runs it once on zeros.

    Args:
        target: what opens the engine.
        engine: the file that the target opens.
        threads: threads of the runtime; 0 is its own choice.
        batch: how many images a dynamic batch takes at the least.
        free: the sizes of an image's free sides, in order.

    Returns:
        What it took, or a sentence that it was given up, for :data:`PROCESSOR_S` or :data:`CLOCK_S`.

    Raises:
        RadixRTError: the process failed; the message holds its last line.
    """
    command = [
        sys.executable,
        "-m",
        "radixrt.validate.measure.cold_start",
        import_path(target),
        str(engine),
        *map(str, (PROCESSOR_S, threads, batch, *free)),
    ]
    given_up = "Opening the engine in a process of its own, with one inference, took more than {}: it was given up."
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CLOCK_S, check=False)
    except subprocess.TimeoutExpired:
        return given_up.format(f"{CLOCK_S} s")
    if done.returncode == -signal.SIGXCPU:
        return given_up.format(f"{PROCESSOR_S} s of processor time")
    try:
        return ColdStart.model_validate_json(done.stdout.strip().rpartition("\n")[2])
    except ValidationError as error:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RadixRTError(f"a fresh process could not open and run {engine}: {last}") from error


def measure_here(target: str, engine: Path, threads: int, batch: int, *free: int) -> ColdStart:
    """The measurement itself, for a process that does nothing else; ``target`` is where the class stands."""
    import numpy as np

    from radixrt.engines.registry import load
    from radixrt.export.sides import sized

    opener = load(target)
    opener.capability()
    start = time.perf_counter()
    session = opener.open(engine, threads=threads)
    opened = time.perf_counter()
    with session:
        feeds = {spec.name: np.zeros(sized(spec.shape, batch, free), spec.dtype) for spec in session.inputs}
        before = time.perf_counter()
        session.run(feeds)
        after = time.perf_counter()
    return ColdStart(
        load_ms=(opened - start) * 1000,
        first_inference_ms=(after - before) * 1000,
        peak_bytes=_peak_bytes(),
    )


def _peak_bytes() -> int:
    # getrusage would tell the parent's peak: Linux carries it over fork and exec. VmHWM starts anew with the program.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


if __name__ == "__main__":
    _most = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CPU, (_most, _most + 1))
    print(measure_here(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[4:])).model_dump_json())
