"""Ray: started here for one sweep, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from radixrt import __version__
from radixrt.engines.machine import cores
from radixrt.errors import InputError, UnavailableError, first_line
from radixrt.fleet.inputs import Input, Sender
from radixrt.fleet.rows import Row
from radixrt.fleet.worker import Job, Look, Outcome, look, work
from radixrt.reuse import source_sha256

STORE_BYTES = 200_000_000
"""Room for bundles on their way, in shared memory; what is more goes to the disk."""
TRIES = 1
"""A row whose process died is tried once more: it may have been the machine's doing."""


@dataclass(frozen=True)
class Cluster:
    """Machines that rows are sent to.

    ``home`` is the node of this process; ``looks`` what each machine has.
    """

    home: str
    looks: tuple[Look, ...]
    slots: int
    sender: Any

    def check(self, rows: tuple[Row, ...]) -> None:
        """Refuses what no machine here can do.

        Raises:
            InputError: a machine has another RadixRT.
            UnavailableError: no machine builds a row's target.
        """
        source = source_sha256()
        for one in self.looks:
            if (one.radixrt, one.source) != (__version__, source):
                said = one.radixrt if one.radixrt != __version__ else f"{one.radixrt} with other code"
                raise InputError(
                    f"the worker {one.host} has RadixRT {said}, and here is {__version__}: install the same on every "
                    "machine of the cluster"
                )
        for target in dict.fromkeys(row.target for row in rows):
            if not any(target in one.targets for one in self.looks):
                reason, _, hint = self.looks[0].why_not[target].partition(". ")
                raise UnavailableError(target, f"no machine of the sweep builds it: {reason}", hint)

    def send(self, row: Row, command: str, ask: int) -> Any:
        """Starts a row on a machine that can build it; gives the reference to its outcome."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        able = [one for one in self.looks if row.target in one.targets]
        options: dict[str, Any] = {"num_cpus": ask, "max_retries": TRIES, "retry_exceptions": False}
        if len(able) < len(self.looks):
            one = able[int(row.key[:8], 16) % len(able)]
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(one.node, soft=False)
        job = Job(row.name, row.options, row.inputs, self.home, os.environ.get("OMP_NUM_THREADS"), command)
        return ray.remote(work).options(name=row.name, **options).remote(job, self.sender)


def outcome_of(reference: Any) -> Outcome:
    """What came of a row that is over; a process or machine that died is one sentence."""
    import ray

    try:
        found: Outcome = ray.get(reference)
        return found
    except ray.exceptions.RayError as error:
        text = f"its process died on the way, twice: {first_line(error)}"
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            text = "its machine ran out of memory: give it fewer --jobs, or a machine with more"
        return Outcome(host="", seconds=0.0, error=text)


@contextlib.contextmanager
def cluster(address: str | None, jobs: int | None, ask: int, inputs: tuple[Input, ...]) -> Iterator[Cluster]:
    """Starts Ray here, or joins a cluster, for as long as the block lasts.

    Args:
        address: the cluster's; None starts one of this machine alone.
        jobs: builds at once on this machine; one for each core where None.
        ask: cores of one build.
        inputs: what a machine may ask for.

    Raises:
        UnavailableError: Ray is not installed.
        InputError: there is no cluster at the address, or it cannot be joined from here.
    """
    # Ray reports its use to its maker otherwise, and prints what is ours to say.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    try:
        import ray
    except ImportError as error:
        hint = 'Install it: pip install "radixrt[fleet]"'
        raise UnavailableError("the sweep", "Ray is not installed", hint) from error

    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False, "configure_logging": False}
    with contextlib.ExitStack() as stack:
        if address is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="rx", ignore_cleanup_errors=True))
            cpus = (jobs or cores()) * ask
            ray.init(
                address="local",
                num_cpus=cpus,
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
                _temp_dir=scratch,
                **quiet,
            )
        else:
            try:
                ray.init(address=address, **quiet)
            except Exception as error:
                raise InputError(
                    f"there is no Ray cluster to join at {address} ({first_line(error)}): start one with `ray start "
                    "--head`, or leave --address out"
                ) from error
        stack.callback(ray.shutdown)
        home = ray.get_runtime_context().get_node_id()
        yield Cluster(home, _looks(), _slots(ask), _sender(home, inputs))


def _nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"] and node["Resources"].get("CPU")]


def _slots(ask: int) -> int:
    return max(1, sum(int(node["Resources"]["CPU"]) // ask for node in _nodes()))


def _looks() -> tuple[Look, ...]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    found = {}
    for node in _nodes():
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        name = node.get("NodeManagerHostname", node["NodeID"])
        found[name, node["NodeID"]] = ray.remote(look).options(num_cpus=0, scheduling_strategy=where).remote()
    looks = tuple(_answer(name, reference) for (name, _), reference in found.items())
    if not looks:
        raise InputError("the cluster has no machine with a core to give: start one with `ray start --address ...`")
    return looks


def _answer(name: str, reference: Any) -> Look:
    import ray

    try:
        found: Look = ray.get(reference)
        return found
    except Exception as error:
        raise InputError(
            f"the worker {name} cannot run RadixRT {__version__} ({first_line(error)}): install the same RadixRT on "
            "every machine of the cluster"
        ) from error


def _sender(home: str, inputs: tuple[Input, ...]) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where = NodeAffinitySchedulingStrategy(home, soft=False)
    return ray.remote(Sender).options(num_cpus=0, scheduling_strategy=where).remote(inputs)
