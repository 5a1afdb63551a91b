"""How many images a second an engine answers with several requests at once, and how long one of them then takes.

Each stream is a session of its own in a thread of its own, and takes an equal share of the processors. All run for the
same time; what was begun before it ends is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np

from radixrt.validate.schema import Throughput

WARM_UP = 3


def throughput(
    runs: Sequence[Callable[[], Any]],
    batch: int,
    threads: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Runs every stream until the time is over.

    Args:
        runs: one request of each stream.
        batch: images of a request.
        threads: of each stream; told in the row.
        seconds: how long.
        clock: seconds, monotonic.
    """
    for run in runs:
        for _ in range(WARM_UP):
            run()
    start = Barrier(len(runs))

    def stream(run: Callable[[], Any]) -> tuple[float, list[float]]:
        start.wait()
        begun, ends = clock(), [clock()]
        while ends[-1] - begun < seconds:
            run()
            ends.append(clock())
        return begun, ends[1:]

    with ThreadPoolExecutor(len(runs)) as pool:
        found = list(pool.map(stream, runs))
    taken = max(ends[-1] for _, ends in found) - min(begun for begun, _ in found)
    each = np.concatenate([np.diff([begun, *ends]) for begun, ends in found])
    return Throughput(
        streams=len(runs),
        threads=threads,
        batch=batch,
        images_per_s=len(each) * batch / taken,
        p50_ms=1000 * float(np.median(each)),
        p95_ms=1000 * float(np.percentile(each, 95)),
    )
