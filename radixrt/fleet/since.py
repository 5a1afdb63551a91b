"""Two sweeps side by side: what became slower and what lost accuracy since an earlier one."""

from __future__ import annotations

from dataclasses import dataclass

from radixrt.fleet.schema import Sweep, SweepRow
from radixrt.validate.report.compare import BETWEEN_RUNS


@dataclass(frozen=True)
class Change:
    """One row in both sweeps; ``said`` tells what changed, and ``worse`` that it is for the worse."""

    name: str
    before: SweepRow
    after: SweepRow
    said: str
    worse: bool


@dataclass(frozen=True)
class Since:
    """What an earlier sweep says of a later one.

    Attributes:
        changes: the rows that both have, those that became worse first.
        new: the names of rows that the earlier one did not have.
        gone: the names of rows that only the earlier one has.
    """

    changes: tuple[Change, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]


def since(earlier: Sweep, later: Sweep) -> Since:
    """Puts two sweeps side by side, row by row.

    A row is found by its name, and where a list has grown, which puts its values into the names, by its combination.
    """
    names = {row.name: row for row in earlier.rows}
    combinations = {_combination(row): row for row in earlier.rows}
    pairs = [(names.get(row.name) or combinations.get(_combination(row)), row) for row in later.rows]
    found = [_change(before, row) for before, row in pairs if before is not None and row.state != "waiting"]
    known = {before.name for before, _ in pairs if before is not None}
    return Since(
        changes=tuple(sorted(found, key=lambda one: not one.worse)),
        new=tuple(row.name for before, row in pairs if before is None),
        gone=tuple(name for name in names if name not in known),
    )


def _combination(row: SweepRow) -> tuple[str, ...]:
    return row.model, row.precision, row.target, row.method, row.batch, row.device


def _change(before: SweepRow, after: SweepRow) -> Change:
    if before.finished != after.finished:
        turned = "compiles again" if after.finished else f"no longer compiles: {after.reason}"
        return Change(after.name, before, after, turned, not after.finished)
    said: list[str] = []
    worse = False
    old, new = before.figures, after.figures
    if old and new and old.p50_ms and new.p50_ms:
        ratio = new.p50_ms / old.p50_ms
        if before.machine != after.machine:
            said.append("measured on another machine: times are not comparable")
        elif old.unsteady or new.unsteady:
            said.append("its times were not steady")
        elif ratio > BETWEEN_RUNS:
            said, worse = [f"{(ratio - 1) * 100:.0f} % slower"], True
        elif ratio < 1 / BETWEEN_RUNS:
            said.append(f"{(1 - ratio) * 100:.0f} % faster")
    if old and new and old.quality is not None and new.quality is not None and old.metric == new.metric:
        lost = (old.quality - new.quality) * (1 if new.higher_is_better else -1)
        if lost:
            said.append(f"{new.metric} {'worse' if lost > 0 else 'better'}: {old.quality:.4g}, now {new.quality:.4g}")
            worse = worse or lost > 0
    if before.state != after.state:
        said.append("misses a gate now" if after.state == "missed" else "keeps its gates now")
        worse = worse or after.state == "missed"
    return Change(after.name, before, after, "; ".join(said) or "as before", worse)
