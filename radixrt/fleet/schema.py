"""``sweep.json``: one object for each combination. The published JSON schema is made from these models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from radixrt.errors import InputError, first_fault
from radixrt.validate.gates import engine_row, missed
from radixrt.validate.quality import FROZEN, main_metric
from radixrt.validate.report.summary import headline
from radixrt.validate.schema import Report

SWEEP_NAME = "sweep.json"
State = Literal["waiting", "done", "missed", "failed"]


class Figures(BaseModel):
    """What was measured of one engine, as its report says it.

    ``quality`` is the engine's figure of ``metric`` and ``reference_quality`` the original's, between 0 and 1 where
    it is a ``share``; ``drop_points`` is how many points the engine is worse, with its 95 % interval. Where no labels
    decide they are absent, and ``agreement`` (the share of equal answers), ``cosine_min`` or ``sqnr_db`` says how close
    the two are. Times are of the smallest batch, in milliseconds; they are absent where the engine did not run, and
    ``unsteady`` says why they are not to be judged by. ``others_cores`` is how many cores other processes kept busy
    during the timing. ``measured_on`` is the CPU stand-in where a plan could not run.
    """

    model_config = FROZEN

    metric: str | None = None
    quality: float | None = None
    reference_quality: float | None = None
    drop_points: float | None = None
    drop_ci95_points: tuple[float, float] | None = None
    share: bool = True
    higher_is_better: bool = True
    agreement: float | None = None
    cosine_min: float | None = None
    sqnr_db: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    images_per_s: float | None = None
    speedup_p50: float | None = None
    unsteady: list[str] = []
    others_cores: float | None = None
    engine_bytes: int | None = None
    measured_on: str = "engine"
    weights: str = ""

    @classmethod
    def of(cls, report: Report) -> Figures:
        """The few figures of a report that rows are held against each other by."""
        metric, latency, parity = main_metric(report.metrics), report.latency, report.parity
        row = engine_row(latency) if latency else None
        return cls(
            metric=metric.title if metric else None,
            quality=metric.engine if metric else None,
            reference_quality=metric.reference if metric else None,
            drop_points=metric.drop_points if metric else None,
            drop_ci95_points=metric.drop_ci95_points if metric else None,
            share=metric.share if metric else True,
            higher_is_better=metric.higher_is_better if metric else True,
            agreement=parity.top1_agreement if parity else None,
            cosine_min=parity.cosine_min if parity else None,
            sqnr_db=parity.sqnr_db if parity else None,
            p50_ms=row.p50_ms if row else None,
            p95_ms=row.p95_ms if row else None,
            images_per_s=row.images_per_s if row else None,
            speedup_p50=latency.speedup_p50 if latency else None,
            unsteady=latency.unsteady if latency else [],
            others_cores=latency.method.others_cores if latency else None,
            engine_bytes=report.size.engine_bytes,
            measured_on=report.measured_on,
            weights=report.model.weights,
        )


class Cost(BaseModel):
    """What a row took: seconds in all, of which ``waited_s`` for other jobs of its machine; ``timed_s`` alone there.

    ``cpu_s`` is the processor time of its process; ``reused`` names what an earlier row or run had made.
    """

    model_config = FROZEN

    seconds: float
    waited_s: float
    timed_s: float
    cpu_s: float
    reused: list[str] = []


class SweepRow(BaseModel):
    """One combination.

    Attributes:
        name: its folder's name, in the sweep's folder, where it is done.
        key: a hash of all that decides it.
        model, precision, target, method, batch, device: the combination; ``method`` is of int8, ``device`` is empty for
            a row that was measured on the machine that built it.
        state: ``done`` and ``missed`` have a bundle, of which the second missed a gate; ``failed`` has none.
        reason: the sentence on a row that failed or missed a gate.
        verdict: the headline of its report.
        machine: where it was built and measured, in words, and ``host`` that machine's name.
    """

    model_config = FROZEN

    name: str
    key: str
    model: str
    precision: str
    target: str
    method: str = ""
    batch: str
    device: str = ""
    state: State
    reason: str = ""
    verdict: str = ""
    machine: str = ""
    host: str = ""
    figures: Figures | None = None
    cost: Cost | None = None

    @property
    def finished(self) -> bool:
        """It has a bundle."""
        return self.state in ("done", "missed")

    @property
    def title(self) -> str:
        """The network's name, as the row's begins with it."""
        return self.name.partition(f"-{self.precision}-{self.target}")[0]

    def judged(self, report: Report, **more: Any) -> SweepRow:
        """The row with what its report says."""
        environment = report.environment
        # Each runtime has words of its own for the processor.
        device = environment.get("device", "")
        words = [environment.get("processor", ""), *([device] if "GPU" in device or "NVIDIA" in device else [])]
        return self.model_copy(
            update={
                "state": "done" if report.passed else "missed",
                "reason": "" if report.passed else missed(report.gates),
                "verdict": headline(report).title,
                "machine": ", ".join(word for word in words if word),
                "figures": Figures.of(report),
                **more,
            }
        )


class Sweep(BaseModel):
    """The whole of ``sweep.json``; ``seconds`` are of the run that finished it."""

    model_config = FROZEN

    schema_version: Literal[1] = Field(default=1, alias="schema")
    created: str
    radixrt: str
    command: str
    seconds: float = 0.0
    passed: bool
    rows: list[SweepRow]

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Reads a ``sweep.json``, or the one in a folder.

        Raises:
            InputError: the file is missing, or is not one of this schema.
        """
        file = path / SWEEP_NAME if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise InputError(f"cannot read the sweep {file}: {error.strerror}; `radixrt sweep` writes one") from error
        except ValidationError as error:
            raise InputError(f"{file} is not a sweep of this RadixRT: {first_fault(error)}") from error


def sweep_json_schema() -> dict[str, Any]:
    """The JSON schema of ``sweep.json``, as published in ``docs/sweep.schema.json``."""
    schema = Sweep.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "RadixRT sweep"}
