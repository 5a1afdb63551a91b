"""``radixrt sweep`` and ``radixrt choose``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from radixrt.cli.app import err, out, say, typed
from radixrt.cli.command import command
from radixrt.fleet.choose import ChooseOptions
from radixrt.fleet.options import SweepOptions

if TYPE_CHECKING:
    from radixrt.fleet.schema import SweepRow
    from radixrt.fleet.sweep import Progress

MOST_ROWS = 20
COLOURS = {"done": "green", "missed": "red", "failed": "red", "waiting": ""}


@command(SweepOptions)
def sweep(options: SweepOptions) -> None:
    """Runs ``radixrt sweep``: what is finished is told of, also where it was interrupted."""
    from radixrt.fleet.sweep import sweep
    from radixrt.validate.report.summary import count

    seen: Progress | None = None

    def look(progress: Progress) -> None:
        nonlocal seen
        seen = progress
        show(progress)

    try:
        with _shown() as show:
            told = sweep(options, typed(), look)
    except (KeyboardInterrupt, SystemExit) as stop:
        if seen is None:
            raise
        kept = f"Interrupted: {seen.over} of {len(seen.rows)} rows are finished and stay; "
        kept += "the same command goes on with the others."
        if isinstance(stop, KeyboardInterrupt):
            raise KeyboardInterrupt(kept) from stop
        err.print(kept, soft_wrap=True)
        raise
    folder = Path(options.output or "build/sweep")
    say(f"{count(len(told.rows), 'row')}: {folder / 'index.html'}, sweep.json, sweep.csv, junit.xml")


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None]]:
    """A live table on a terminal; a line for each row that is over elsewhere."""
    if err.is_terminal:
        with Live(console=err, refresh_per_second=2, transient=False) as live:
            yield lambda progress: live.update(table(progress))
        return
    seen: set[str] = set()

    def lines(progress: Progress) -> None:
        if not seen and progress.resumed:
            err.print(f"{progress.resumed} of {len(progress.rows)} rows were finished by an earlier run")
            seen.update(row.name for row in progress.rows.values() if row.state != "waiting")
        for row in progress.rows.values():
            if row.state != "waiting" and row.name not in seen:
                seen.add(row.name)
                left = f"; {_left(progress)}" if progress.over < len(progress.rows) else ""
                line = f"[{progress.over}/{len(progress.rows)}] {row.name}: {row.state}, {_said(row)}{left}"
                err.print(line, markup=False, soft_wrap=True)

    yield lines


def table(progress: Progress) -> Table:
    """The rows under way, and as many of those that went wrong and are done as fit; how long the rest takes."""
    rows = list(progress.rows.values())
    title = f"{progress.over} of {len(rows)} rows, {_left(progress)}"
    found = Table(title=title, title_justify="left", box=None, pad_edge=False, expand=True)
    # A name is told from the next by its end: it goes on below, and is not cut.
    found.add_column("row", overflow="fold", ratio=1)
    found.add_column("state", no_wrap=True)
    found.add_column("what came of it", ratio=1)
    # A terminal with fewer lines than the table has cuts it below.
    for name in progress.running:
        found.add_row(Text(name), Text("running", "cyan"), "")
    wrong = [row for row in rows if row.state in ("failed", "missed")]
    done = [row for row in rows if row.state == "done"]
    for row in [*wrong, *done][: max(0, MOST_ROWS - len(progress.running))]:
        # A report has the rest of a verdict.
        said = row.reason or _said(row.model_copy(update={"verdict": row.verdict.partition(":")[0]}))
        found.add_row(Text(row.name), Text(row.state, COLOURS[row.state]), Text(said))
    return found


def _left(progress: Progress) -> str:
    seconds = progress.seconds_left
    if seconds is None:
        return "nothing known of the time yet"
    return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"


def _said(row: SweepRow) -> str:
    figures = row.figures
    if row.reason or figures is None:
        return row.reason
    parts = [row.verdict]
    if figures.p50_ms is not None:
        parts.append(f"{figures.p50_ms:.3g} ms")
    return ", ".join(parts)


@command(ChooseOptions)
def choose(options: ChooseOptions) -> None:
    """Runs ``radixrt choose``: the best row, and one reason against each other one."""
    from radixrt.errors import GateError
    from radixrt.fleet.choose import choose
    from radixrt.fleet.schema import Sweep

    found = choose(Sweep.read(options.sweep), options)
    if found.best is not None:
        best = found.best
        say(Text.assemble((best.name, "bold"), f"  {best.model}, {best.precision}, {best.target}: {_said(best)}"))
    rows = Table("row", "why not")
    for row, why in found.others:
        rows.add_row(row.name, why)
    if found.others:
        out.print(rows)
    if found.best is None:
        raise GateError(f"no row of {options.sweep} keeps these limits")
