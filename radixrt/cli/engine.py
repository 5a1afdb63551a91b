"""``radixrt engine``, and what it knows: networks by name, and targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from radixrt.cli.answer import STDOUT, Answer
from radixrt.cli.app import out, say, stages, typed
from radixrt.cli.command import Switch, command
from radixrt.fields import as_path
from radixrt.options import CompileOptions

if TYPE_CHECKING:
    from radixrt.build.pipeline import Engine
    from radixrt.validate.schema import Candidate


@command(CompileOptions)
def engine(options: CompileOptions) -> None:
    """Runs ``radixrt engine``: what is finished is shown, also where a later target or gate fails."""
    from radixrt.build.pipeline import Engine
    from radixrt.files import make_room
    from radixrt.request import EngineRequest
    from radixrt.validate.report.junit import write_junit

    answer = Answer.of_this_run()
    make_room(as_path(options.junit))
    make_room(None if str(options.json) == STDOUT else options.json)
    run = Engine(EngineRequest.of(options, typed()), stages())
    try:
        run.run()
    finally:
        folders: list[Path | None] = [result.bundle.path for result in run.results]
        folders += [None] * (len(run.reports) - len(folders))
        answer.engines, answer.comparison = list(zip(run.reports, folders, strict=True)), run.comparison
        _show(run)
        write_junit(as_path(options.junit), run.reports)


def _show(run: Engine) -> None:
    for result in run.results:
        print_result(result.bundle.path, result.report)
    if Answer.of_this_run().quiet:
        return
    if run.race.candidates:
        print_candidates(run.race.candidates)
    if run.comparison is not None:
        say(f"\nSide by side: {run.comparison}")


def print_candidates(candidates: Sequence[Candidate]) -> None:
    """The targets that the fastest was chosen from."""
    from radixrt.validate.report.rows import CANDIDATE_HEAD, candidate_rows

    table = Table(*CANDIDATE_HEAD)
    for row in candidate_rows(candidates):
        table.add_row(*map(str, row))
    out.print(table)


def print_result(path: Path, report: object) -> None:
    """The few numbers that answer whether the engine is good, and where the rest stands; one line in a quiet run."""
    from radixrt.validate.report.summary import headline, tiles
    from radixrt.validate.schema import Report

    assert isinstance(report, Report)
    said = headline(report)
    colour = {"good": "green", "bad": "red", "unproved": "yellow"}[said.tone]
    line = Text.assemble((str(path), "bold"), "  ", (said.title, colour))
    if Answer.of_this_run().quiet:
        say(line)
        return
    say(Text.assemble("\n", line))
    for sentence in said.sentences:
        say(Text(f"- {sentence}", colour if said.tone == "bad" else ""))
    table = Table.grid(padding=(0, 2))
    for tile in tiles(report):
        table.add_row(tile.label, Text(tile.value, "bold"), Text(tile.note, "dim"))
    out.print(table)
    say(Text(f"The whole report: {path / 'report.html'}", "dim"))


def models(
    *,
    attention: Annotated[Switch, Parameter(help="Compile each one's graph and count its attention blocks.")] = False,
) -> None:
    """Runs ``radixrt models``."""
    from radixrt.export.source.names import known_models

    if attention:
        from radixrt.cli.census import print_attention

        print_attention(out, stages())
        return
    table = Table("name", "family", "definition")
    for known in known_models():
        table.add_row(known.name, known.family, known.definition)
    out.print(table)
    say("Also: timm:NAME, resnest:NAME, pkg.module:factory, file.py:factory, file.onnx")


def targets() -> None:
    """Runs ``radixrt targets``."""
    from radixrt.engines.registry import all_targets

    table = Table("target", "builds", "runs", "version", "device", "why not, and what to do")
    for target in all_targets():
        can = target.capability()
        why = f"{can.reason}. {can.hint}" if can.reason else ""
        builds = Text("graph here, plan on the device", "yellow") if can.on_device else _yes(can.builds)
        table.add_row(can.target, builds, _yes(can.runs), can.version, can.device, why)
    out.print(table)


def _yes(value: bool) -> Text:
    return Text("yes", "green") if value else Text("no", "yellow")
