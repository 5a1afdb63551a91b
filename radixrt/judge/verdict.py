"""What was measured of one engine."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from radixrt.validate.gates import GateLimits, judge_gates
from radixrt.validate.measure.findings import speed_findings
from radixrt.validate.schema import Accuracy, Finding, Gate, Latency, LayerTime, MeasuredOn, Parity, Size
from radixrt.validate.tasks.base import OutputsJudged


class Verdict(BaseModel):
    """What was measured; ``accuracy`` is absent where labels do not fit the head or the weights are random.

    ``layer_times`` are those of the engine's own profiler, the slowest first; ``findings`` say what is wrong with
    its inputs, outputs and times, ``notes`` how they were taken. What was measured on the stand-in has no
    latency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parity: Parity
    accuracy: Accuracy | None
    latency: Latency | None = None
    layer_times: list[LayerTime] = []
    findings: list[Finding] = []
    notes: list[str] = []
    measured_on: MeasuredOn = "engine"

    @classmethod
    def of(cls, outputs: OutputsJudged, times: Latency, notes: list[str]) -> Verdict:
        """What the outputs and the times of an engine that ran say together."""
        findings = [*outputs.findings, *speed_findings(times)]
        return cls(parity=outputs.parity, accuracy=outputs.accuracy, latency=times, findings=findings, notes=notes)

    @property
    def executed(self) -> bool:
        """Whether the engine itself ran."""
        return self.measured_on == "engine"

    def gates(self, limits: GateLimits, size: Size, *, has_accuracy: bool = True) -> list[Gate]:
        """The limits, held against what was measured and the size of the engine's files.

        ``has_accuracy`` says that the task's answers are right or wrong.
        """
        judged = judge_gates(
            limits,
            parity=self.parity,
            accuracy=self.accuracy,
            latency=self.latency,
            size=size,
            executed=self.executed,
            measured_on=self.measured_on,
        )
        # The default limit on the drop of top-1 is for those who have a top-1.
        return judged if has_accuracy else [gate for gate in judged if gate.name != "max_drop"]
