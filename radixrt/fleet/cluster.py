"""Ray: started here for one sweep, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from radixrt import __version__
from radixrt.engines.quiet import shared_folder
from radixrt.engines.registry import get
from radixrt.errors import InputError, RadixRTError, UnavailableError, first_line
from radixrt.fleet.inputs import Input, Sender, moved
from radixrt.fleet.rows import Row, cannot_be
from radixrt.fleet.scratch import scratch
from radixrt.fleet.worker import Job, Look, Outcome, Wanted, look, work
from radixrt.machine import cores
from radixrt.reuse import source_sha256

STORE_BYTES = 200_000_000
"""Room for bundles on their way, in shared memory; what is more goes to the disk."""
KNOCK_S = 10.0
"""How long a cluster may take to answer at all."""
LONGEST_FOLDER = 30
"""Characters of the folder for Ray's own: it adds some 70 of the 107 that a socket's path may have."""


@dataclass(frozen=True)
class Cluster:
    """Machines that rows are sent to.

    ``home`` is the node of this process; ``looks`` what each machine has; ``ask`` the cores of one build.
    """

    home: str
    looks: tuple[Look, ...]
    ask: int
    sender: Any

    def check(self, rows: tuple[Row, ...]) -> None:
        """Refuses what no machine here can do.

        Raises:
            InputError: none can give what a row asks for, read its files, or has so many cores.
            UnavailableError: no machine builds a row's target, or reaches its device.
        """
        for row in rows:
            if not self._able(row, self.looks):
                raise self._refusal(row)

    def _refusal(self, row: Row) -> RadixRTError:
        """Why no machine here can do a row: the first thing that all lack who have what was asked before."""
        builders = [one for one in self.looks if row.target in one.targets]
        if not builders:
            reason, hint = self.looks[0].why_not[row.target]
            return UnavailableError(row.target, f"no machine of the sweep builds it: {reason}", hint)
        able = [one for one in builders if (row.target, row.build) not in one.refused]
        if not able:
            return cannot_be(row, builders[0].refused[row.target, row.build])
        there = [one for one in able if (row.device, row.target) not in one.unreached]
        if not there:
            reason, hint = able[0].unreached[row.device, row.target]
            return UnavailableError(row.device, f"no machine of the sweep can use it: {reason}", hint)
        kept = next((one for one in row.inputs if one.outside), None)
        if kept is not None and not any(one.node == self.home for one in there):
            return InputError(
                f"{kept.option} is {kept.path}, which names {kept.outside}: what lies outside its folder is sent to no "
                "other machine, so name a folder that holds both"
            )
        most = max(one.cores for one in there)
        return InputError(
            f"a build asks for {self.ask} cores, and the machines that could build {row.name} give {most} at most: "
            "give fewer --cores"
        )

    @property
    def alive(self) -> tuple[Look, ...]:
        """The machines that are still there.

        Raises:
            UnavailableError: none is.
        """
        there = {node["NodeID"] for node in _nodes()}
        found = tuple(one for one in self.looks if one.node in there)
        if not found:
            raise UnavailableError(
                "the sweep", "no machine of the cluster is left", "Start them; the same command goes on."
            )
        return found

    @property
    def slots(self) -> int:
        """Rows that go on at once."""
        return max(1, sum(one.cores // self.ask for one in self.alive))

    def send(self, row: Row, command: str) -> Any:
        """Starts a row on a machine that can do it; gives the reference to its outcome, None where those have left."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        alive = self.alive
        able = self._able(row, alive)
        if not able:
            return None
        strangers = len(_nodes()) > len(alive)  # they came later, and nobody looked at what they have
        options: dict[str, Any] = {"num_cpus": self.ask, "max_retries": 0}
        if row.device and row.device in able[0].resources:
            options["resources"] = {row.device: 1}
        elif not row.device and not get(row.target).traits.cpu and able[0].resources.get("GPU"):
            options["num_gpus"] = 1
        if len(able) < len(alive) or strangers:
            one = able[int(row.key[:8], 16) % len(able)]
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(one.node, soft=False)
        # The process that takes it has another working folder than this one.
        whole = moved(replace(row.options, sign_key=None), row.inputs, lambda one: Path(one.path))
        jobs: Counter[str] = Counter()
        for one in alive:
            jobs[one.host] += one.cores // self.ask
        share = max(1, *jobs.values())
        job = Job(row.name, whole, row.inputs, self.home, os.environ.get("OMP_NUM_THREADS"), command, share)
        return ray.remote(work).options(name=row.name, **options).remote(job, self.sender)

    def _able(self, row: Row, looks: tuple[Look, ...]) -> tuple[Look, ...]:
        """The machines that can do a row: of those, the ones with what is kept for it, where any has."""
        able = [
            one
            for one in looks
            if row.target in one.targets
            and (row.target, row.build) not in one.refused
            and (row.device, row.target) not in one.unreached
            and (one.node == self.home or not any(read.outside for read in row.inputs))
            and one.cores >= self.ask
        ]
        kept = row.device or ("" if get(row.target).traits.cpu else "GPU")
        return tuple([one for one in able if one.resources.get(kept)] or able)


def outcome_of(reference: Any) -> Outcome:
    """What came of a row that is over; a process or machine that died is one sentence, and its outcome is lost."""
    import ray

    gone = ray.exceptions
    try:
        found: Outcome = ray.get(reference)
        return found
    except gone.OutOfMemoryError:
        text = "its machine ran out of memory: give it fewer --jobs, or a machine with more"
    except (gone.NodeDiedError, gone.TaskUnschedulableError):
        text = "its machine left the cluster"
    except gone.WorkerCrashedError:
        text = "its process died on the way, killed or by a library's fault"
    except gone.RayError as error:
        text = f"Ray gave it up: {first_line(error)}"
    return Outcome(host="", seconds=0.0, error=text, lost=True)


@contextlib.contextmanager
def cluster(address: str | None, jobs: int | None, ask: int, wanted: Wanted) -> Iterator[Cluster]:
    """Starts Ray here, or joins a cluster, for as long as the block lasts.

    Args:
        address: the cluster's; None starts one of this machine alone.
        jobs: builds at once on this machine; one for each core where None.
        ask: cores of one build.
        wanted: what the rows need of a machine.

    Raises:
        UnavailableError: Ray is not installed, or does not start here.
        InputError: there is no cluster at the address, it cannot be joined from here, or Ray is in use already.
    """
    # Ray reports its use to its maker otherwise, prints what is ours to say, and has its processes, and so the timings
    # in them, step back behind everything else on the machine.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        hint = 'Install it: pip install "radixrt[fleet]"'
        raise UnavailableError("the sweep", "Ray is not installed", hint) from error
    if ray.is_initialized():
        raise InputError("Ray is in use in this process: call ray.shutdown() before the sweep, which starts its own")

    # What it says of a dead process on our standard output, the row's sentence says.
    ray._private.worker._worker_logs_enabled = False
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        where: dict[str, Any] = {"address": address}
        if address is None:
            where = {
                "address": "local",
                "num_cpus": (jobs or cores()) * ask,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
                "_temp_dir": str(stack.enter_context(scratch("r", _short_folder()))),
            }
        stack.callback(ray.shutdown)
        with _own_sigterm():
            _init(address, where)
        home = ray.get_runtime_context().get_node_id()
        yield Cluster(home, _looks(wanted), ask, _sender(home, wanted.inputs))


def _init(address: str | None, where: dict[str, Any]) -> None:
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False, "configure_logging": False}
    try:
        _knock(address)
        ray.init(**where, **quiet)
    except Exception as error:
        if address is None:
            hint = "Make room in memory, /dev/shm and the temporary folder, or build rows one by one: radixrt engine."
            raise UnavailableError("the sweep", f"Ray does not start here ({first_line(error)})", hint) from error
        raise InputError(
            f"there is no Ray cluster to join at {address} ({first_line(error)}): start one with `ray start --head`, "
            "or leave --address out"
        ) from error


def _short_folder() -> Path | None:
    """Where Ray's sockets go: a socket's path has room for a folder of few characters before it."""
    usual = shared_folder()
    if len(str(usual)) <= LONGEST_FOLDER:
        return None
    folder = Path(f"/tmp/radixrt-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps this process's way to end on SIGTERM: Ray puts its own in the place, which ends with codes of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:
        raise SystemExit(128 + signal.SIGTERM) from stop
    finally:
        if before is not None:  # one that is not Python's
            signal.signal(signal.SIGTERM, before)


def _knock(address: str | None) -> None:
    """Finds out whether anybody listens there: Ray itself tries for minutes, and tells of each try."""
    if "://" in (address or ""):
        raise ValueError("an address is HOST:PORT, the head's own")
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]


def _looks(wanted: Wanted) -> tuple[Look, ...]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = []
    for node in _nodes():
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = node.get("NodeManagerHostname", node["NodeID"])
        options = {"num_cpus": 0, "max_retries": 2, "scheduling_strategy": where}
        found.append((name, node["Resources"], ray.remote(look).options(**options).remote(wanted)))
    looks = tuple(replace(_answer(name, reference), resources=resources) for name, resources, reference in found)
    if not looks:
        raise InputError("the cluster has no machine with a core to give: start one with `ray start --address ...`")
    return looks


def _answer(name: str, reference: Any) -> Look:
    import ray

    try:
        found: Look = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        reason = first_line(error.cause or error)
        raise InputError(
            f"the worker {name} cannot run RadixRT {__version__} ({reason}): install the same on every machine of the "
            "cluster"
        ) from error
    except ray.exceptions.RayError as error:
        reason = f"{name} left while it was asked what it has ({first_line(error)})"
        raise UnavailableError("the sweep", reason, "Start it again, or sweep without it.") from error
    check_same(found)
    return found


def check_same(found: Look) -> None:
    """Refuses a machine with another RadixRT; of what that one's tells, only these two fields are sure to be there.

    Raises:
        InputError: it has another version, or other code.
    """
    if (found.radixrt, found.source) == (__version__, source_sha256()):
        return
    said = found.radixrt if found.radixrt != __version__ else f"{found.radixrt} with other code"
    raise InputError(
        f"the worker {found.host} has RadixRT {said}, and here is {__version__}: install the same on every machine of "
        "the cluster"
    )


def _sender(home: str, inputs: tuple[Input, ...]) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(home, soft=False)
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 2, "scheduling_strategy": where}
    return ray.remote(Sender).options(**lasting).remote(inputs)
