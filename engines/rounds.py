"""One round of timing: every runner once, starting with another one each time.

Whoever times runners against each other does it in such rounds. What slows the machine down for a while falls on all of
them alike, and the times of one round are pairs, whose ratio it leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Slot = tuple[str, Callable[[], object]]
"""A runner's name and one run of it."""


def one_round(
    slots: Sequence[Slot], turn: int, now: Callable[[], float], rest: Callable[[], object] | None = None
) -> list[tuple[str, float]]:
    """Runs every slot once and times it.

    Args:
        slots: the runners.
        turn: the round's number: the first to run is the next one each time, so that nobody always runs in the wake of
            the same neighbour.
        now: seconds, monotonic.
        rest: called before each run, outside its time.

    Returns:
        The seconds of each, by name, in the order in which they ran.
    """
    taken = []
    first = turn % len(slots)
    for name, run in (*slots[first:], *slots[:first]):
        if rest is not None:
            rest()
        start = now()
        run()
        taken.append((name, now() - start))
    return taken
