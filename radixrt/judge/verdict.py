"""What was measured of one engine."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from radixrt.validate.gates import GateLimits, judge_gates
from radixrt.validate.measure.findings import speed_findings
from radixrt.validate.quality import Accuracy, DetailTable, Metric
from radixrt.validate.schema import Finding, Gate, Latency, LayerTime, MeasuredOn, Parity, Size
from radixrt.validate.tasks.base import Example, OutputsJudged


class Verdict(BaseModel):
    """What was measured; ``metrics`` are absent where labels do not fit the task or the weights are random.

    ``layer_times`` are those of the engine's own profiler, the slowest first; ``findings`` say what is wrong with
    its inputs, outputs and times, ``notes`` how they were taken. What was measured on the stand-in has no
    latency. ``device`` names the device that it was measured on, in its ``environment``; empty for this machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parity: Parity
    metrics: list[Metric] = []
    accuracy: Accuracy | None = None
    tables: list[DetailTable] = []
    examples: list[Example] = []
    latency: Latency | None = None
    layer_times: list[LayerTime] = []
    findings: list[Finding] = []
    notes: list[str] = []
    measured_on: MeasuredOn = "engine"
    device: str = ""
    environment: dict[str, str] = {}

    @classmethod
    def of(cls, outputs: OutputsJudged, times: Latency, notes: list[str]) -> Verdict:
        """What the outputs and the times of an engine that ran say together."""
        findings = [*outputs.findings, *speed_findings(times)]
        return cls.of_outputs(outputs).model_copy(update={"latency": times, "findings": findings, "notes": notes})

    @classmethod
    def of_outputs(cls, outputs: OutputsJudged) -> Verdict:
        """What the outputs alone say."""
        return cls(
            parity=outputs.parity,
            metrics=outputs.metrics,
            accuracy=outputs.accuracy,
            tables=outputs.tables,
            examples=outputs.examples,
            findings=outputs.findings,
        )

    @property
    def executed(self) -> bool:
        """Whether the engine itself ran."""
        return self.measured_on == "engine"

    def gates(self, limits: GateLimits, size: Size, *, has_metrics: bool = True) -> list[Gate]:
        """The limits, held against what was measured and the size of the engine's files.

        ``has_metrics`` says that the task has figures beyond parity.
        """
        judged = judge_gates(
            limits,
            parity=self.parity,
            metrics=self.metrics,
            latency=self.latency,
            size=size,
            executed=self.executed,
            measured_on=self.measured_on,
        )
        # The default limit on the drop is for those who have something that can drop.
        return judged if has_metrics else [gate for gate in judged if gate.name != "max_drop"]
