"""What runs on a machine of the fleet: one row's build, and a look at what the machine has.

The functions here are called by Ray in processes of its own. A process keeps the network that it prepared last, with
the original's answers, because rows come network by network.
"""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radixrt import __version__
from radixrt.errors import GateError, RadixRTError, first_line
from radixrt.fleet.inputs import Input, moved, received
from radixrt.options import CompileOptions

if TYPE_CHECKING:
    from radixrt.build.pipeline import Result
    from radixrt.prepare import Prepared


@dataclass(frozen=True)
class Job:
    """A row as it is sent to a machine.

    ``home`` is the Ray node that the sweep was started on, whose files need not be sent; ``threads`` what
    OMP_NUM_THREADS said there: Ray sets it for its processes, and a timing there would not be that of a command.
    """

    name: str
    options: CompileOptions
    inputs: tuple[Input, ...]
    home: str
    threads: str | None
    command: str


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a bundle's files by name with its report, or one sentence on why there is none.

    ``trace`` is the traceback of what is a bug.
    """

    host: str
    seconds: float
    waited_s: float = 0.0
    timed_s: float = 0.0
    cpu_s: float = 0.0
    report: bytes = b""
    bundle: dict[str, bytes] = field(default_factory=dict)
    error: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Look:
    """What a machine of the fleet has. ``targets`` are those it builds; ``why_not`` has a sentence for the others."""

    node: str
    host: str
    radixrt: str
    source: str
    cores: int
    targets: tuple[str, ...]
    why_not: dict[str, str]


def look() -> Look:
    """Looks at this machine."""
    import ray

    from radixrt.engines.machine import cores
    from radixrt.engines.registry import all_targets
    from radixrt.reuse import source_sha256

    can = [target.capability() for target in all_targets()]
    return Look(
        node=ray.get_runtime_context().get_node_id(),
        host=socket.gethostname(),
        radixrt=__version__,
        source=source_sha256(),
        cores=cores(),
        targets=tuple(one.target for one in can if one.builds or one.graph),
        why_not={one.target: f"{one.reason}. {one.hint}" for one in can if not (one.builds or one.graph)},
    )


def work(job: Job, sender: Any) -> Outcome:
    """Builds and measures one row; whatever goes wrong with it is told, not raised."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if job.threads is not None:
        os.environ["OMP_NUM_THREADS"] = job.threads
    from radixrt.engines.quiet import Machine

    started, used = time.monotonic(), time.process_time()
    machine = Machine()

    def outcome(**more: Any) -> Outcome:
        return Outcome(
            host=socket.gethostname(),
            seconds=time.monotonic() - started,
            waited_s=machine.waited_s,
            timed_s=machine.timed_s,
            cpu_s=time.process_time() - used,
            **more,
        )

    try:
        with machine.working(), tempfile.TemporaryDirectory(prefix="radixrt-row-") as scratch:
            result = _built(job, sender, Path(scratch))
            return outcome(report=result.report.to_json().encode(), bundle=_contents(result.bundle.path))
    except RadixRTError as error:
        return outcome(error=str(error))
    except Exception as error:
        return outcome(error=f"a bug: {type(error).__name__}: {first_line(error)}", trace=traceback.format_exc())
    finally:
        machine.close()


def _built(job: Job, sender: Any, scratch: Path) -> Result:
    import ray

    from radixrt.build.pipeline import Engine
    from radixrt.progress import Stages
    from radixrt.request import EngineRequest

    options = job.options
    if job.inputs and ray.get_runtime_context().get_node_id() != job.home:

        def files(sha256: str) -> list[str]:
            found: list[str] = ray.get(sender.files.remote(sha256))
            return found

        def piece(sha256: str, name: str, number: int) -> bytes:
            found: bytes = ray.get(sender.piece.remote(sha256, name, number))
            return found

        options = moved(options, job.inputs, lambda one: received(one, files, piece))
    request = EngineRequest.of(replace(options, output=scratch / job.name), job.command)
    # The bundle's recipe names what the user named, and not where this machine keeps it.
    engine = Engine(replace(request, options=job.options), Stages(), preparer=_preparer(request.model, request.data))
    try:
        engine.run()
    except GateError:
        if not engine.results:
            raise
    return engine.results[0]


@dataclass
class _Slot:
    """Room for one prepared network."""

    prepared: Prepared | None = None


@functools.lru_cache(maxsize=1)
def _slot(key: str) -> _Slot:
    return _Slot()


def _preparer(*network: object) -> Callable[..., Prepared]:
    """Prepares a network, or takes it from the row before, which had the same one and the same images."""
    from radixrt.prepare import prepare

    def call(*given: Any) -> Prepared:
        slot = _slot(repr((network, given[2])))
        if slot.prepared is None:
            slot.prepared = prepare(*given)
            return slot.prepared
        return replace(slot.prepared, reused=("the network and its images", *slot.prepared.reused))

    return call


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
