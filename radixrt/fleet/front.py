"""Which rows of a sweep no other row beats, on one device at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from radixrt.fleet.schema import SweepRow


@dataclass(frozen=True)
class Point:
    """A row with what it is held against others by: ``quality`` is higher for the better, time is of one image."""

    row: SweepRow
    quality: float
    latency_ms: float
    bytes: int

    def beats(self, other: Point) -> bool:
        """Whether it is as good in all three and better in one."""
        mine = (-self.quality, self.latency_ms, self.bytes)
        theirs = (-other.quality, other.latency_ms, other.bytes)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def place(row: SweepRow) -> str:
    """The device that a row was measured on, as people call it: times of two places are not held against each other."""
    return row.device or row.machine or "this machine"


def quality_of(row: SweepRow) -> tuple[str, float] | None:
    """What a row is good by: the task's metric, else its closeness to the original."""
    figures = row.figures
    if figures is None:
        return None
    if figures.quality is not None and figures.metric:
        return figures.metric, figures.quality if figures.higher_is_better else -figures.quality
    if figures.agreement is not None:
        return "same answer as the original", figures.agreement
    if figures.cosine_min is not None:
        return "smallest cosine to the original", figures.cosine_min
    return None if figures.sqnr_db is None else ("SQNR to the original in dB", figures.sqnr_db)


def points(rows: Sequence[SweepRow]) -> dict[str, list[Point]]:
    """The rows whose engine ran and was timed, by place and by what they are good by; each group in the rows' order."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        figures, quality = row.figures, quality_of(row)
        if figures is None or quality is None or figures.p50_ms is None or figures.engine_bytes is None:
            continue
        batch = int(row.batch.partition("..")[0])
        title = f"{place(row)}: {quality[0]}"
        found.setdefault(title, []).append(Point(row, quality[1], figures.p50_ms / batch, figures.engine_bytes))
    return found


def front(group: Sequence[Point]) -> list[Point]:
    """Those that no other of the group beats, the quickest first."""
    return sorted((one for one in group if not any(other.beats(one) for other in group)), key=lambda p: p.latency_ms)
