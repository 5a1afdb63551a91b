"""What was measured of one engine."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from radixrt.validate.gates import GateLimits, judge_gates
from radixrt.validate.schema import Accuracy, Gate, Latency, LayerTime, MeasuredOn, Parity, Size


class Verdict(BaseModel):
    """What was measured; ``accuracy`` is absent where labels do not fit the head or the weights are random.

    ``measured`` is when; ``layer_times`` are those of the engine's own profiler, the slowest first; ``findings`` are
    sentences on what is wrong with its inputs and outputs, ``notes`` on how they were taken. What was measured on the
    stand-in has no latency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measured: str
    parity: Parity
    accuracy: Accuracy | None
    latency: Latency | None = None
    layer_times: list[LayerTime] = []
    findings: list[str] = []
    notes: list[str] = []
    measured_on: MeasuredOn = "engine"

    @property
    def executed(self) -> bool:
        """Whether the engine itself ran."""
        return self.measured_on == "engine"

    def gates(self, limits: GateLimits, size: Size) -> list[Gate]:
        """The limits, held against what was measured and the size of the engine's files."""
        return judge_gates(
            limits,
            parity=self.parity,
            accuracy=self.accuracy,
            latency=self.latency,
            size=size,
            executed=self.executed,
            measured_on=self.measured_on,
        )
