"""``tensors``: nothing is known of what the outputs mean, so each is held against the original's, number by number."""

from __future__ import annotations

from radixrt.calibration.data.batch import Batch
from radixrt.validate.measure.parity import ParityAccumulator
from radixrt.validate.tasks.base import Interface, Judge, Outputs, OutputsJudged, Task, Trust


class Tensors(Task):
    """Parity of every output, and nothing beyond it."""

    name = "tensors"

    def refusal(self, network: Interface) -> str | None:
        return None

    def judge(self, network: Interface, trust: Trust) -> Judge:
        return _Parity(network)

    def aims(self, network: Interface) -> tuple[str, ...]:
        return network.floats


class _Parity(Judge):
    def __init__(self, network: Interface) -> None:
        self._close = ParityAccumulator(main=network.main, classify=False)

    def add(self, reference: Outputs, engine: Outputs, batch: Batch) -> None:
        self._close.add_outputs(reference, engine, batch.names)

    def result(self) -> OutputsJudged:
        return OutputsJudged(self._close.result())
