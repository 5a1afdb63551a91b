"""Puts together what is known about an engine, and writes it as three files."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from radixrt.calibration.data.batch import Samples
from radixrt.calibration.spec import CalibrationSummary
from radixrt.engines.base import Capability
from radixrt.engines.bundle.folder import REPORT_NAME
from radixrt.engines.bundle.manifest import now
from radixrt.export.passes.report import Float32Node, RewriteReport
from radixrt.judge.locate import Located
from radixrt.judge.verdict import Verdict
from radixrt.machine import processor
from radixrt.prepare.network import Prepared
from radixrt.reuse import Kept, library_versions
from radixrt.validate.gates import GateLimits, judge_overflow, passed
from radixrt.validate.measure.findings import layer_findings, metric_findings, precision_findings
from radixrt.validate.report.html import render_html
from radixrt.validate.report.markdown import render_markdown
from radixrt.validate.report.thumbnails import thumbnails
from radixrt.validate.schema import Candidate, ModelInfo, Quantization, Report, Size
from radixrt.validate.tasks.base import Example


@dataclass(frozen=True)
class Subject:
    """The engine that a report is of, beside what was measured of it.

    Attributes:
        capability: what its target can do here.
        precision: in the report's words.
        size: of its files.
        command: what made the report.
        introduction: the first sentences of the notes.
        history: sentences on how it was made, and ``remarks`` the builder's own, which come last.
        rewrite, calibration, quantization, float32_nodes: how it was made; empty for an engine that was found.
        reused: what of it was taken from an earlier run.
    """

    capability: Capability
    precision: str
    size: Size
    command: str
    introduction: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    rewrite: RewriteReport = field(default_factory=RewriteReport)
    calibration: CalibrationSummary | None = None
    quantization: Quantization | None = None
    float32_nodes: tuple[Float32Node, ...] = ()
    reused: tuple[str, ...] = ()


def build_report(
    subject: Subject,
    prepared: Prepared,
    limits: GateLimits,
    verdict: Kept[Verdict],
    located: Kept[Located],
    candidates: Sequence[Candidate] = (),
) -> Report:
    """Everything that is known about an engine.

    Args:
        subject: the engine.
        prepared: the original.
        limits: those that it must keep.
        verdict: what was measured of it.
        located: where its error comes from.
        candidates: the targets that this one was chosen from.
    """
    model, found = prepared.model, verdict.value
    own = found.gates(limits, subject.size, has_metrics=bool(prepared.task.task.metrics))
    gates = [*own, *judge_overflow(located.value.rows)]
    return Report(
        model=ModelInfo(name=model.name, source=model.source, weights=model.weights, parameters=model.parameters),
        precision=subject.precision,
        target=subject.capability.target,
        executed=found.executed,
        reference=prepared.reference.short,
        created=now(),
        command=subject.command,
        device=found.device,
        environment={**environment(subject.capability), **found.environment},
        rewrite=subject.rewrite,
        calibration=subject.calibration,
        quantization=subject.quantization,
        float32_nodes=list(subject.float32_nodes),
        parity=found.parity,
        metrics=found.metrics,
        accuracy=found.accuracy,
        tables=found.tables,
        latency=found.latency,
        measured_on=found.measured_on,
        layer_times=found.layer_times,
        drift=list(located.value.rows),
        findings=[
            *prepared.findings,
            *precision_findings(subject.precision, subject.quantization),
            *metric_findings(found.metrics, limits),
            *found.findings,
            *layer_findings(located.value.rows),
        ],
        preprocessing=prepared.preparation.fields if prepared.preparation else [],
        reused=[*subject.reused, *verdict.reused, *located.reused],
        size=subject.size,
        gates=gates,
        passed=passed(gates),
        notes=list(_notes(subject, prepared, verdict, located)),
        candidates=list(candidates),
        task=prepared.task.task.name,
        task_reason=prepared.task.why,
    )


def _notes(subject: Subject, prepared: Prepared, verdict: Kept[Verdict], located: Kept[Located]) -> Iterator[str]:
    yield from subject.introduction
    yield prepared.task.sentence
    yield from prepared.on_outputs
    if subject.size.engine_bytes is None:
        yield (
            f"No engine was built here: {subject.capability.reason}. `python3 run.py --build` in the bundle makes it "
            "on the device."
        )
    elif not verdict.value.executed:
        yield f"The engine was not executed: {subject.capability.reason}."
    yield from subject.history
    yield from (*verdict.value.notes, *located.value.notes, *subject.remarks)


def flipped(report: Report, images: Samples) -> dict[str, bytes]:
    """Small pictures of the images whose answer changed, by name."""
    flips = report.accuracy.flips if report.accuracy else []
    return thumbnails(dict(zip(images.names, images.paths, strict=False)), (flip.image for flip in flips))


def write_reports(
    report: Report, folder: Path, pictures: Mapping[str, bytes] | None = None, examples: Sequence[Example] = ()
) -> None:
    """Writes the report as JSON, Markdown and one self-contained page.

    Args:
        report: what to write.
        folder: where to.
        pictures: of the images that the report names, by name.
        examples: images on which engine and original differ most.
    """
    report.write(folder / REPORT_NAME)
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(render_html(report, pictures, examples), encoding="utf-8")


def environment(capability: Capability) -> dict[str, str]:
    """Where a build took place, in words."""
    words = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "device": capability.device,
        "python": platform.python_version(),
        capability.target: capability.version,
        **library_versions(),
    }
    return {name: value for name, value in words.items() if value}
