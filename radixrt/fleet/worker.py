"""What runs on a machine of the fleet: one row's build, and a look at what the machine has.

The functions here are called by Ray in processes of its own. A process keeps the network that it prepared last, with
its images and the original's answers, because rows come network by network.
"""

from __future__ import annotations

import functools
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from radixrt import __version__
from radixrt.engines.base import BuildOptions
from radixrt.engines.quiet import Machine
from radixrt.errors import GateError, RadixRTError, UnavailableError, first_line
from radixrt.fleet.inputs import Input, moved, received
from radixrt.fleet.rows import refusal_of
from radixrt.fleet.scratch import scratch, temporaries_in
from radixrt.options import CompileOptions
from radixrt.progress import Stages
from radixrt.remote.device import Device

if TYPE_CHECKING:
    from radixrt.build.pipeline import Result
    from radixrt.prepare.network import Prepared

T = TypeVar("T")

IMAGES_KEPT_BYTES = 384_000_000
"""What a worker keeps of a network's images, prepared: 600 of 224x224."""


@dataclass(frozen=True)
class Job:
    """A row as it is sent to a machine.

    ``home`` is the Ray node that the sweep was started on, whose files need not be sent; ``threads`` what
    OMP_NUM_THREADS said there: Ray sets it for its processes, and a timing there would not be that of a command;
    ``share`` how many jobs a machine has at once.
    """

    name: str
    options: CompileOptions
    inputs: tuple[Input, ...]
    home: str
    threads: str | None
    command: str
    share: int


@dataclass(frozen=True)
class Outcome:
    """What came of a job: a bundle's files by name with its report, or one sentence on why there is none.

    ``trace`` is the traceback of what is a bug. ``lost`` says that nothing came back, for no fault of the row's that is
    known.
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
    lost: bool = False


@dataclass(frozen=True)
class Wanted:
    """What the rows of a sweep need of a machine.

    Attributes:
        inputs: the files and folders that it may ask for.
        builds: each target with what it must be able to give.
        devices: each device with the targets that are to be measured there.
    """

    inputs: tuple[Input, ...] = ()
    builds: tuple[tuple[str, BuildOptions], ...] = ()
    devices: tuple[tuple[Device, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class Look:
    """What a machine of the fleet has.

    Attributes:
        node: Ray's name for it.
        host: its own.
        radixrt, source: its RadixRT's version and the hash of its code.
        targets: those it builds.
        why_not: the reason against each other target, and how to mend it.
        refused: the reason against a target with what was asked of it.
        unreached: the reason against a device with a target, and how to mend it.
        resources: what Ray counts there, by name.
    """

    node: str
    host: str
    radixrt: str
    source: str
    targets: tuple[str, ...]
    why_not: dict[str, tuple[str, str]]
    refused: dict[tuple[str, BuildOptions], str] = field(default_factory=dict)
    unreached: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)
    resources: dict[str, float] = field(default_factory=dict)

    @property
    def cores(self) -> int:
        """Those that Ray gives to jobs."""
        return int(self.resources.get("CPU", 0))


def look(wanted: Wanted) -> Look:
    """Looks at this machine."""
    import ray

    from radixrt.engines.registry import all_targets
    from radixrt.reuse import source_sha256

    can = [target.capability() for target in all_targets()]
    return Look(
        node=ray.get_runtime_context().get_node_id(),
        host=socket.gethostname(),
        radixrt=__version__,
        source=source_sha256(),
        targets=tuple(one.target for one in can if one.builds or one.graph),
        why_not={one.target: (one.reason, one.hint) for one in can if not (one.builds or one.graph)},
        refused={build: reason for build in wanted.builds if (reason := refusal_of(*build))},
        unreached=dict(refused for device, targets in wanted.devices for refused in _unreached(device, targets)),
    )


def _unreached(device: Device, targets: tuple[str, ...]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Why a device, seen from here, takes no engines of a target."""
    from radixrt.engines.registry import get
    from radixrt.remote.visit import look, refusal

    facts = lost = None
    try:
        facts = look(device)
    except UnavailableError as error:
        lost = error
    for target in targets:
        why = refusal(device, facts, get(target)) if facts else lost
        if why is not None:
            yield (device.name, target), (why.reason, why.hint)


def work(job: Job, sender: Any) -> Outcome:
    """Builds and measures one row; whatever goes wrong with it is told, not raised."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if job.threads is not None:
        os.environ["OMP_NUM_THREADS"] = job.threads
    started, used = time.monotonic(), time.process_time()
    machine: Machine | None = None
    places: dict[str, str] = {}

    def place(one: Input) -> Path:
        where = _place(one, job.home, sender)
        places[str(where)] = one.path
        return where

    def outcome(error: str = "", **more: Any) -> Outcome:
        for there, here in places.items():
            error = error.replace(there, here)
        return Outcome(
            host=socket.gethostname(),
            seconds=time.monotonic() - started,
            waited_s=machine.waited_s if machine else 0.0,
            timed_s=machine.timed_s if machine else 0.0,
            cpu_s=time.process_time() - used,
            error=error,
            **more,
        )

    try:
        machine = Machine(turn=_threads(job.share))
        with machine.working(), scratch("row") as folder, temporaries_in(folder):
            options = moved(job.options, job.inputs, place)
            result = _built(job, options, folder, machine)
            return outcome(report=result.report.to_json().encode(), bundle=_contents(result.bundle.path))
    except RadixRTError as error:
        return outcome(error=str(error))
    except Exception as error:
        return outcome(error=f"a bug: {type(error).__name__}: {first_line(error)}", trace=traceback.format_exc())
    finally:
        if machine is not None:
            machine.close()


def _threads(share: int) -> Callable[[bool], None]:
    """Gives PyTorch all threads for a timing, and its part of the cores while it works beside others.

    Threads of two processes that wait for each other on the same cores take several times as long as one a process.
    """
    import torch

    from radixrt.machine import cores

    every = torch.get_num_threads()
    part = min(every, max(1, cores() // share))
    return lambda alone: torch.set_num_threads(every if alone else part)


def _place(one: Input, home: str, sender: Any) -> Path:
    """Where an input lies on this machine, which asks for what it does not have."""
    import ray

    if ray.get_runtime_context().get_node_id() == home:
        return Path(one.path)
    return received(
        one, lambda *asked: ray.get(sender.files.remote(*asked)), lambda *asked: ray.get(sender.piece.remote(*asked))
    )


class _Steps(Stages):
    """Stages that nobody looks at; between their steps another job's timing goes first."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._machine.give_way()
        with super().stage(name):
            yield

    def track(self, items: Iterable[T], total: int | None) -> Iterator[T]:
        for item in super().track(items, total):
            self._machine.give_way()
            yield item

    def at(self, done: int, total: int, seconds_left: float | None = None) -> None:
        self._machine.give_way()


def _built(job: Job, options: CompileOptions, folder: Path, machine: Machine) -> Result:
    from radixrt.build.pipeline import Engine
    from radixrt.request import EngineRequest

    request = EngineRequest.of(replace(options, output=folder / job.name), job.command)
    # The bundle's recipe names what the user named, and not where this machine keeps it.
    engine = Engine(
        replace(request, options=job.options), _Steps(machine), preparer=_preparer(request.model, request.data)
    )
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
    from radixrt.prepare.network import prepare

    def call(*given: Any) -> Prepared:
        slot = _slot(repr((network, given[2])))
        if slot.prepared is None:
            slot.prepared = _remembering(prepare(*given))
            return slot.prepared
        return replace(slot.prepared, reused=("the network and its images", *slot.prepared.reused))

    return call


def _remembering(prepared: Prepared) -> Prepared:
    """The same network, whose images are decoded once for all rows, where they are few."""
    from radixrt.calibration.data.remembered import Remembered, Room

    room = Room(IMAGES_KEPT_BYTES)
    calibration, test = prepared.data.calibration, prepared.data.test
    images = replace(
        prepared.data,
        calibration=Remembered(calibration, room),
        test=None if test is None else Remembered(test, room),
    )
    return replace(prepared, data=images)


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
