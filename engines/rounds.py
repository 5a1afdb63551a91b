"""One round of timing: every runner in turn, starting with another one each time.

Whoever times runners against each other does it in such rounds. What slows the machine down for a while falls on all of
them alike, and the times of one round are pairs, whose ratio it leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Slot = tuple[str, Callable[[], object]]
"""A runner's name and one run of it."""


def in_turn(slots: Sequence[Slot], turn: int) -> tuple[Slot, ...]:
    """The runners in the order of a round: the first is the next one each time.

    So nobody always runs in the wake of the same neighbour.
    """
    first = turn % len(slots)
    return (*slots[first:], *slots[:first])


def one_round(slots: Sequence[Slot], turn: int, now: Callable[[], float]) -> list[tuple[str, float]]:
    """Runs every slot once and times it.

    Args:
        slots: the runners.
        turn: the round's number.
        now: seconds, monotonic.

    Returns:
        The seconds of each, by name, in the order in which they ran.
    """
    taken = []
    for name, run in in_turn(slots, turn):
        start = now()
        run()
        taken.append((name, now() - start))
    return taken
