"""A sweep from its recipe to its page: rows are found, sent out, kept as they come, and told of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from radixrt import __version__
from radixrt.engines.bundle.manifest import now
from radixrt.errors import GateError
from radixrt.fleet.cluster import cluster, outcome_of
from radixrt.fleet.options import SweepOptions
from radixrt.fleet.page import render_csv, render_junit, render_page_of
from radixrt.fleet.rows import Row, rows_of
from radixrt.fleet.schema import SWEEP_NAME, Sweep, SweepRow
from radixrt.fleet.store import Store
from radixrt.fleet.worker import Outcome, Wanted
from radixrt.remote.device import Device
from radixrt.request import devices_of

WRITE_EVERY_S = 30.0
"""How often the files that tell of all rows are written while a sweep runs; rows themselves are written at once."""

NOWHERE = Outcome(host="", seconds=0.0, error="the machines that could build it have left the cluster")
AT_A_DEVICE = 2
"""Rows of one device that are under way: one is measured, as the device's own lock sees to, the next is prepared."""


@dataclass
class Progress:
    """How far a sweep is; ``rows`` has what is known of each, ``running`` the names of those under way."""

    rows: dict[str, SweepRow]
    running: list[str] = field(default_factory=list)
    resumed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> int:
        """Rows that need no more work."""
        return sum(row.state != "waiting" for row in self.rows.values())

    @property
    def seconds_left(self) -> float | None:
        """What the rows that are left take, at the pace of those that this run did."""
        done = self.over - self.resumed
        if not done:
            return None
        return (time.monotonic() - self.started) / done * (len(self.rows) - self.over)


def sweep(
    options: SweepOptions, command: str = "radixrt.sweep", show: Callable[[Progress], None] = lambda _: None
) -> Sweep:
    """Builds every row that is not finished yet, and writes what all of them say.

    Args:
        options: the recipe.
        command: what ``sweep.json`` says it was made by.
        show: called whenever something changed, and about twice a second.

    Raises:
        InputError: something given cannot be used; nothing was started.
        UnavailableError: no machine builds a target that is named.
        GateError: more rows failed or missed a gate than may; all that is finished is kept.
    """
    store = Store(Path(options.output or "build/sweep"))
    rows = rows_of(options)
    earlier = Sweep.read(Path(options.since)) if options.since is not None else None
    with store.held():
        progress = Progress({row.name: _waiting(row) for row in rows})
        for row in rows:
            if (found := store.finished(row)) is not None:
                progress.rows[row.name] = found
        progress.resumed = progress.over
        todo = [row for row in rows if progress.rows[row.name].state == "waiting"]
        store.check_room(todo)
        show(progress)
        try:
            if todo:
                _run(todo, options, command, store, progress, show)
        finally:
            told = _told(progress, options, command)
            if not todo and (before := store.told()) is not None:
                told = told.model_copy(update={"seconds": before.seconds})
            # A sweep that was refused leaves nothing.
            if progress.over:
                _write(store, told, earlier)
    if not told.passed:
        bad = [row for row in told.rows if row.state != "done"]
        first = f"{bad[0].name}: {bad[0].reason}"
        raise GateError(
            f"{len(bad)} of {len(told.rows)} rows failed or missed a gate, of which {options.max_failed} may "
            f"(the first: {first}); all of them: {store.folder / 'index.html'}"
        )
    return told


def _run(
    todo: list[Row],
    options: SweepOptions,
    command: str,
    store: Store,
    progress: Progress,
    show: Callable[[Progress], None],
) -> None:
    with cluster(options.address, options.jobs, options.cores, _wanted(todo)) as fleet:
        import ray

        fleet.check(tuple(todo))
        progress.started = written = time.monotonic()
        queue = list(todo)
        # What died is tried once more: it may not have been the row's doing.
        again: set[str] = set()
        running: dict[Any, Row] = {}
        while True:
            slots = fleet.slots
            # One more than fits, so that a machine never waits for the driver.
            while len(running) <= slots and (row := _next(queue, running.values())) is not None:
                reference = fleet.send(row, command)
                if reference is None:
                    progress.rows[row.name] = store.put(row, NOWHERE)
                else:
                    running[reference] = row
            progress.running = [row.name for row in running.values()][:slots]
            show(progress)
            if not running and not queue:
                return
            done, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
            for reference in done:
                row = running.pop(reference)
                outcome = outcome_of(reference)
                if outcome.lost and row.name not in again:
                    again.add(row.name)
                    queue.insert(0, row)
                    continue
                if outcome.lost:
                    outcome = replace(outcome, error=f"it was tried twice: {outcome.error}")
                progress.rows[row.name] = store.put(row, outcome)
            if time.monotonic() - written > WRITE_EVERY_S:
                store.write(SWEEP_NAME, _json(_told(progress, options, command)))
                written = time.monotonic()


def _wanted(todo: Sequence[Row]) -> Wanted:
    devices: dict[Device, dict[str, None]] = {}
    for row in todo:
        for device in devices_of(row.options.on):
            devices.setdefault(device, {})[row.target] = None
    return Wanted(
        inputs=tuple({one.sha256: one for row in todo for one in row.inputs}.values()),
        builds=tuple(dict.fromkeys((row.target, row.build) for row in todo)),
        devices=tuple((device, tuple(targets)) for device, targets in devices.items()),
    )


def _next(queue: list[Row], running: Collection[Row]) -> Row | None:
    """Takes the first row out of the queue whose device has not enough to do."""
    busy = Counter(row.device for row in running if row.device)
    for index, row in enumerate(queue):
        if busy[row.device] < AT_A_DEVICE:
            return queue.pop(index)
    return None


def _waiting(row: Row) -> SweepRow:
    return SweepRow(name=row.name, key=row.key, state="waiting", **row.facts)


def _told(progress: Progress, options: SweepOptions, command: str) -> Sweep:
    rows = list(progress.rows.values())
    bad = sum(row.state in ("missed", "failed") for row in rows)
    return Sweep(
        schema=1,
        created=now(),
        radixrt=__version__,
        command=command,
        seconds=time.monotonic() - progress.started,
        passed=bad <= options.max_failed and progress.over == len(rows),
        rows=rows,
    )


def _json(told: Sweep) -> str:
    return told.model_dump_json(indent=1, by_alias=True) + "\n"


def _write(store: Store, told: Sweep, earlier: Sweep | None) -> None:
    store.write(SWEEP_NAME, _json(told))
    store.write("sweep.csv", render_csv(told))
    store.write("junit.xml", render_junit(told))
    store.write("index.html", render_page_of(told, earlier))
