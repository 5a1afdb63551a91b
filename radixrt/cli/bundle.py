"""What is done with engines that exist: classify, judge, look inside, compare."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from radixrt.cli.answer import STDOUT, Answer
from radixrt.cli.app import out, say, stages, typed, write_text
from radixrt.cli.command import Switch, command, whole
from radixrt.cli.engine import print_result
from radixrt.fields import as_path, part
from radixrt.options import BundleOptions, ValidateOptions

if TYPE_CHECKING:
    from radixrt.api import LoadedEngine
    from radixrt.export.sides import Size

BundleArg = Annotated[Path, Parameter(help="A bundle: the folder that `radixrt engine` left.")]
Positive = Annotated[int, Parameter(converter=whole, validator=Number(gte=1))]
NotNegative = Annotated[int, Parameter(converter=whole, validator=Number(gte=0))]


def run(
    bundle: BundleArg,
    images: Annotated[list[Path], Parameter(help="Photographs, or folders of them.")],
    /,
    *,
    top: Annotated[Positive, Parameter(help="How many classes to print.")] = 5,
    size: Annotated[
        str | None, Parameter(help="Where sides are free: 480x640 (height, width), or fit. Default: the middle size.")
    ] = None,
    require_signature: Annotated[Path | None, Parameter(help="An Ed25519 public key of the maker.")] = None,
) -> None:
    """Runs ``radixrt run``."""
    from radixrt.api import load
    from radixrt.export.sides import parse_size

    wanted = None if size is None else parse_size(size)

    with load(bundle, require_signature=require_signature) as engine:
        if engine.bundle.manifest.task != "classify":
            out.print(_answered(engine, images, wanted))
            return
        table = Table("image", "class", "probability")
        for path in images:
            for answer in engine.classify(path, top=top, size=wanted):
                table.add_row(answer.image, answer.label, f"{answer.probability:.3f}")
    out.print(table)


def _answered(engine: LoadedEngine, images: Sequence[Path], size: Literal["fit"] | Size | None) -> Table:
    """What the network answers to each image."""
    from radixrt.engines.bundle.answers import lines

    table = Table("image", engine.bundle.manifest.task)
    for path in images:
        for one in engine.predict(path, size=size):
            table.add_row(one.image, "\n".join(lines(dict(one.answer))))
    return table


@command(ValidateOptions)
def validate(options: ValidateOptions) -> None:
    """Runs ``radixrt validate``; its report always goes to a folder."""
    from radixrt.errors import GateError
    from radixrt.files import make_room
    from radixrt.judge.validate import validate_engine
    from radixrt.request import ValidateRequest
    from radixrt.validate.report.junit import write_junit

    output, junit = Path(options.output or "validation"), as_path(options.junit)
    make_room(junit)
    make_room(None if str(options.json) == STDOUT else options.json)
    report = validate_engine(ValidateRequest.of(replace(options, output=output), typed()), stages())
    Answer.of_this_run().engines.append((report, output))
    write_junit(junit, [report])
    print_result(output, report)
    if not report.passed:
        raise GateError(f"a gate failed: see {output / 'report.html'}")


def compare(
    bundles: Annotated[list[Path], Parameter(help="Bundles, or their report.json files.")],
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="The page to write.")] = Path("compare.html"),
) -> None:
    """Runs ``radixrt compare``."""
    from radixrt.validate.report.compare import render_comparison
    from radixrt.validate.schema import Report

    reports = [Report.read(path / "report.json" if path.is_dir() else path) for path in bundles]
    write_text(output, render_comparison(reports))
    say(f"{output}: {f'{len(reports)} reports side by side' if len(reports) > 1 else 'one report'}")


def inspect(
    source: BundleArg,
    /,
    *,
    json: Annotated[Path | None, Parameter(help="Write the table as JSON.")] = None,
    device: Annotated[str, Parameter(help="tensorrt-rtx: devices to estimate, with commas.")] = "",
    top: Annotated[Positive, Parameter(help="How many layers to print, the costliest first.")] = 20,
) -> None:
    """Runs ``radixrt inspect``."""
    from radixrt.engines.base import BuildOptions
    from radixrt.engines.bundle.folder import Bundle
    from radixrt.engines.registry import get
    from radixrt.export.spec import BatchSpec, Precision

    found = Bundle.read(source)
    manifest = found.manifest
    capabilities = manifest.built_for.compute_capabilities if manifest.built_for else ()
    options = BuildOptions(
        Precision.parse(manifest.precision),
        BatchSpec(*manifest.batch),
        compute_capabilities=capabilities,
        sides=manifest.sides,
    )
    devices = tuple(name.strip() for name in device.split(",") if name.strip())
    seen = get(manifest.target).inspect(found.engine, found.deploy, options, devices=devices)
    if json is not None:
        write_text(json, seen.model_dump_json(indent=2) + "\n")
    unit = "µs" if seen.measured else "kB moved"
    table = Table("layer", "kind", "precision", "torch module", unit, "")
    costs = {row: (row.mean_us or 0.0) if seen.measured else (row.bytes_moved or 0) / 1e3 for row in seen.rows}
    most = max(costs.values(), default=1.0) or 1.0
    for row, cost in sorted(costs.items(), key=lambda item: -item[1])[:top]:
        bar = "█" * round(20 * cost / most)
        table.add_row(row.name[:40], row.kind, row.precision, ", ".join(row.origin[:2]), f"{cost:,.1f}", bar)
    out.print(table)
    moved = f", {seen.bytes_moved / 1e6:.1f} MB moved" if seen.bytes_moved is not None else ""
    total = f", {seen.total_us / 1e3:.2f} ms over {seen.runs} runs" if seen.total_us is not None else ""
    say(f"{seen.kernels} layers{moved}{total}")
    for estimate in seen.estimates:
        share = f"{estimate.memory_bound_share:.0%} of it bound by memory"
        say(f"{estimate.device}: at least {estimate.total_us / 1e3:.3f} ms, a roofline estimate, {share}")
    for note in seen.notes:
        say(note)


@command(BundleOptions)
def bundle(options: BundleOptions) -> None:
    """Runs ``radixrt bundle``."""
    from radixrt.engines.bundle.folder import REPORT_NAME, Bundle
    from radixrt.engines.bundle.triton import TritonOptions, write_model
    from radixrt.errors import InputError
    from radixrt.validate.measure.latency import best_batches
    from radixrt.validate.schema import Report

    if options.sign is None and options.triton is None and options.polygraphy is None:
        raise InputError("say what is to be done with the bundle: --sign KEY, --triton REPOSITORY or --polygraphy DIR")
    found = Bundle.read(options.source)
    if options.triton is not None:
        latency = None
        # What was measured only tunes the server: a report of another version is no reason to serve nothing.
        with contextlib.suppress(InputError):
            latency = Report.read(found.path / REPORT_NAME).latency
        serving = part(options, TritonOptions, preferred=best_batches(latency) if latency else ())
        if latency and not options.gpu:
            serving = replace(serving, threads=options.threads or latency.method.threads or None)
        model = write_model(found, options.triton, serving)
        say(f"{model}: ready for `tritonserver --model-repository {options.triton}`")
    if options.polygraphy is not None:
        from radixrt.judge.polygraphy import write_second_opinion
        from radixrt.options import DataOptions

        data = part(options, DataOptions)
        opinion = write_second_opinion(found, options.polygraphy, data, options.checkpoint, stages())
        say(f"{opinion.folder}: test inputs and the original's outputs; `sh {opinion.folder}/compare.sh` runs")
        for line in opinion.commands:
            say(line)
    if options.sign is not None:
        found.sign(options.sign)
        say(f"{options.source}: signed")


def cache(
    *,
    prune: Annotated[Switch, Parameter(help="Remove what was not used for longest.")] = False,
    max_mb: Annotated[NotNegative, Parameter(help="With --prune: keep at most so many MB.")] = 0,
    older_than_days: Annotated[
        float | None, Parameter(validator=Number(gte=0), help="With --prune: only what is older than this.")
    ] = None,
) -> None:
    """Runs ``radixrt cache``."""
    from radixrt.engines.cache.device import device_files, prune_device_files
    from radixrt.engines.cache.results import StageCache
    from radixrt.files import cache_home

    with StageCache() as kept:
        if prune:
            seconds = None if older_than_days is None else older_than_days * 86400
            limit = max_mb * 1_000_000 if older_than_days is None or max_mb else None
            removed = kept.prune(max_bytes=limit, older_than_s=seconds)
            say(f"removed {len(removed)} results, {sum(entry.bytes for entry in removed) / 1e6:.1f} MB")
            # Results cost the most to make again: what is compiled from them gets what they leave of the room.
            room = None if limit is None else max(0, limit - sum(entry.bytes for entry in kept.entries()))
            files = prune_device_files(max_bytes=room, older_than_s=seconds)
            say(f"removed {len(files)} files made for this device, {sum(file.bytes for file in files) / 1e6:.1f} MB")
        table = Table("stage", "MB", "made", "last used", "key")
        for entry in (*kept.entries(), *device_files()):
            made, used = (datetime.fromtimestamp(t).isoformat(" ", "minutes") for t in (entry.created, entry.used))
            table.add_row(entry.stage, f"{entry.bytes / 1e6:.1f}", made, used, entry.key[:12])
        out.print(table)
        say(f"{cache_home()}")
