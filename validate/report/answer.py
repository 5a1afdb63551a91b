"""What a run tells a program, as one JSON object: the verdict, the key figures, what was found, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from radixrt.validate.gates import engine_row, float_row
from radixrt.validate.measure.rounds import ratio
from radixrt.validate.quality import Metric
from radixrt.validate.report.summary import Tone, gate_state, headline
from radixrt.validate.schema import Finding, Gate, MeasuredOn, Report


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GateAnswer(Gate):
    """One limit of the report; ``state`` is ``kept``, ``failed`` or ``not judged``."""

    state: str


class Figures(_Frozen):
    """The figures of the summary; what was not measured is null. Shares are 0 to 1.

    ``steady`` is false where other programs disturbed the timing: then no time here is to be judged by.
    """

    images: int | None = None
    reference_top1: float | None = None
    engine_top1: float | None = None
    delta_points: float | None = None
    delta_ci95_points: tuple[float, float] | None = None
    top1_agreement: float | None = None
    cosine_min: float | None = None
    sqnr_db: float | None = None
    batch: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    speedup_p50: float | None = None
    speedup_ci95: tuple[float, float] | None = None
    speedup_over_fp32: float | None = None
    steady: bool | None = None
    engine_bytes: int | None = None
    deploy_onnx_bytes: int | None = None

    @classmethod
    def of(cls, report: Report) -> Figures:
        """Takes them from a report."""
        found = {name: value for group in _figures(report) for name, value in group.items()}
        return cls.model_validate(found)


def _figures(report: Report) -> Iterator[dict[str, object]]:
    if accuracy := report.accuracy:
        yield {
            "reference_top1": accuracy.reference_top1,
            "engine_top1": accuracy.engine_top1,
            "delta_points": accuracy.delta_points,
            "delta_ci95_points": accuracy.delta_ci95_points,
        }
    if parity := report.parity:
        yield {
            "images": parity.samples,
            "top1_agreement": parity.top1_agreement,
            "cosine_min": parity.cosine_min,
            "sqnr_db": parity.sqnr_db,
        }
    if latency := report.latency:
        row = engine_row(latency)
        yield {
            "batch": row.batch,
            "p50_ms": row.p50_ms,
            "p95_ms": row.p95_ms,
            "speedup_p50": latency.speedup_p50,
            "speedup_ci95": latency.speedup_ci95,
            "steady": not latency.unsteady,
        }
        if float32 := float_row(latency):
            yield {"speedup_over_fp32": ratio(float32.samples_ms, row.samples_ms).value}
    yield {"engine_bytes": report.size.engine_bytes, "deploy_onnx_bytes": report.size.deploy_onnx_bytes or None}


class Paths(_Frozen):
    """Where things lie."""

    folder: Path
    report_json: Path
    report_md: Path
    report_html: Path


class EngineAnswer(_Frozen):
    """One engine. ``tone`` is ``good``, ``unproved`` or ``bad``, the colour of its verdict in the terminal.

    ``sentences`` are those that the terminal prints below the verdict. ``paths`` is null where no bundle was written.
    """

    model: str
    weights: str
    precision: str
    target: str
    verdict: str
    tone: Tone
    passed: bool
    executed: bool
    measured_on: MeasuredOn
    sentences: tuple[str, ...]
    findings: list[Finding]
    gates: list[GateAnswer]
    task: str
    metrics: list[Metric]
    figures: Figures
    reused: list[str]
    paths: Paths | None

    @classmethod
    def of(cls, report: Report, folder: Path | None) -> EngineAnswer:
        """Describes an engine; ``folder`` holds its report."""
        said = headline(report)
        paths = None
        if folder is not None:
            files = {f"report_{kind}": folder / f"report.{kind}" for kind in ("json", "md", "html")}
            paths = Paths.model_validate({"folder": folder, **files})
        return cls(
            model=report.model.name,
            weights=report.model.weights,
            precision=report.precision,
            target=report.target,
            verdict=said.title,
            tone=said.tone,
            passed=report.passed,
            executed=report.executed,
            measured_on=report.measured_on,
            sentences=said.sentences,
            findings=report.findings,
            gates=[GateAnswer(state=gate_state(gate), **gate.model_dump()) for gate in report.gates],
            task=report.task,
            metrics=report.metrics,
            figures=Figures.of(report),
            reused=report.reused,
            paths=paths,
        )


class RunAnswer(_Frozen):
    """The whole object. ``error`` is the sentence on standard error; ``passed`` says that ``exit_code`` is 0."""

    schema_version: int = Field(default=1, alias="schema")
    radixrt: str
    command: str
    exit_code: int
    passed: bool
    error: str | None
    engines: list[EngineAnswer]
    comparison: Path | None

    def to_json(self) -> str:
        """One JSON object, by the published key names; what is not finite is null."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"
