"""Which rows of a sweep no other row beats, on one device at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from radixrt.fleet.schema import SweepRow
from radixrt.validate.report.summary import percent


@dataclass(frozen=True)
class Quality:
    """What a row is good by.

    Attributes:
        title: the figure, as people call it.
        value: as it was measured.
        share: it lies between 0 and 1, and is told in percent.
        higher_is_better: more of it is better.
    """

    title: str
    value: float
    share: bool = True
    higher_is_better: bool = True

    @property
    def rank(self) -> float:
        """Higher for the better."""
        return self.value if self.higher_is_better else -self.value

    def __str__(self) -> str:
        return percent(self.value) if self.share else f"{self.value:.4g}"


@dataclass(frozen=True)
class Point:
    """A row with what it is held against others by; the latency is of one image."""

    row: SweepRow
    quality: Quality
    latency_ms: float
    bytes: int

    def beats(self, other: Point) -> bool:
        """Whether it is as good in all three and better in one."""
        mine = (-self.quality.rank, self.latency_ms, self.bytes)
        theirs = (-other.quality.rank, other.latency_ms, other.bytes)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def place(row: SweepRow) -> str:
    """The device that a row was measured on, as people call it: times of two places are not held against each other."""
    return row.device or row.machine or "this machine"


def quality_of(row: SweepRow) -> Quality | None:
    """The task's metric, else the closeness to the original."""
    figures = row.figures
    if figures is None:
        return None
    if figures.quality is not None and figures.metric:
        return Quality(figures.metric, figures.quality, figures.share, figures.higher_is_better)
    if figures.agreement is not None:
        return Quality("same answer as the original", figures.agreement)
    if figures.cosine_min is not None:
        return Quality("smallest cosine to the original", figures.cosine_min, share=False)
    if figures.sqnr_db is not None:
        return Quality("SQNR to the original in dB", figures.sqnr_db, share=False)
    return None


def points(rows: Sequence[SweepRow]) -> dict[str, list[Point]]:
    """The rows whose engine ran and was timed, by place and by what they are good by; each group in the rows' order."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        figures, quality = row.figures, quality_of(row)
        if figures is None or quality is None or figures.p50_ms is None or figures.engine_bytes is None:
            continue
        batch = int(row.batch.partition("..")[0])
        title = f"{place(row)}: {quality.title}"
        found.setdefault(title, []).append(Point(row, quality, figures.p50_ms / batch, figures.engine_bytes))
    return found


def front(group: Sequence[Point]) -> list[Point]:
    """Those that no other of the group beats, the quickest first."""
    return sorted((one for one in group if not any(other.beats(one) for other in group)), key=lambda p: p.latency_ms)
