"""Which of several equal graphs TensorRT for RTX runs best, by what it compiles them to: no device is needed.

Kernels, bytes and multiply-adds are weighed against each other as seconds on one device. That is no latency.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from radixrt.engines.forms.cache import Answer
from radixrt.engines.tensorrt.rtx.plan_cost import PlanCost
from radixrt.engines.tensorrt.rtx.roofline import Device
from radixrt.errors import InputError

WEIGHED_FOR = Device(
    name="GeForce RTX 3060",
    compute_capability="8.6",
    bandwidth_gb_s=360,
    fp32_tflops=25.4,
    fp16_tflops=25.4,
    int8_tops=25.4,
    source="published peaks of the GeForce RTX 3060: memory, and FP16 with FP32 sums, which stands for every type: the "
    "forms of one question are all of one type",
)
LAUNCH_S = 2e-6
"""Seconds for launching a kernel."""


def weighed(cost: PlanCost) -> float:
    """Returns the sum over the kernels of the larger of memory and arithmetic time, and the launches, in seconds."""
    return sum(
        WEIGHED_FOR.seconds(row.precision, row.macs, row.bytes_read + row.bytes_written) + LAUNCH_S for row in cost.rows
    )


class PlanJudge:
    """Compiles each candidate and weighs what the plan does.

    Args:
        cost: compiles a serialised ONNX graph and counts.
        min_gain: the share by which a form must win.
    """

    def __init__(self, cost: Callable[[bytes], PlanCost], min_gain: float = 0.02) -> None:
        self._cost, self._min_gain = cost, min_gain

    def __call__(self, candidates: Mapping[str, ir.Model]) -> Answer:
        original = next(iter(candidates))
        costs: dict[str, PlanCost] = {}
        for name, model in candidates.items():
            cost = self._compile(model)
            if isinstance(cost, PlanCost):
                costs[name] = cost
            elif name == original:
                return Answer(form=name, why=f"could not be compiled: {cost}")
        seconds = {name: weighed(cost) for name, cost in costs.items()}
        others = [name for name in seconds if name != original]
        if not others:
            return Answer(form=original, why="no other form compiles")
        best = min(others, key=lambda name: seconds[name])
        figures = f"plan cost {_figures(costs[best])} against {_figures(costs[original])}"
        if seconds[best] < seconds[original] * (1 - self._min_gain):
            return Answer(form=best, why=figures)
        return Answer(form=original, why=f"{best} does not cost less ({figures})")

    def _compile(self, model: ir.Model) -> PlanCost | InputError:
        try:
            return self._cost(ir.to_proto(model).SerializeToString())
        except InputError as error:
            return error


def _figures(cost: PlanCost) -> str:
    return f"{cost.kernels} kernels, {cost.bytes_moved / 1e6:.2f} MB, {cost.macs / 1e6:.0f} M multiply-adds"
