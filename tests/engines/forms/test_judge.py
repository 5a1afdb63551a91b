from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from radixrt.engines.forms.graphs import grouped_conv_graph
from radixrt.engines.forms.judge import ClockRules, answer_by_clock
from radixrt.engines.tensorrt.rtx.plan_cost import Kernel, KernelTensor, PlanCost
from radixrt.engines.tensorrt.rtx.plan_judge import PlanJudge
from radixrt.errors import InputError
from radixrt.export.passes.conv_shape import KEEP
from radixrt.export.spec import Precision
from tests.engines.forms.shapes import RESNEXT, TRAITS


class FakeMachine:
    """A clock that moves only when something runs, so that timing is exact and takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def runs(self, seconds: Mapping[str, Callable[[int], float]]) -> dict[str, Callable[[], object]]:
        def runner(name: str) -> Callable[[], object]:
            def run() -> None:
                self.ran.append(name)
                self.now += seconds[name](len(self.ran))

            return run

        return {name: runner(name) for name in seconds}


def steady(seconds: float) -> Callable[[int], float]:
    return lambda _: seconds


# A clear win must be taken, and the report must hold its size.
def test_the_clock_takes_a_clear_win() -> None:
    machine = FakeMachine()
    answer = answer_by_clock(machine.runs({"keep": steady(0.002), "dense": steady(0.001)}), clock=machine)
    assert answer.form == "dense"
    assert "2.00x as fast as keep" in answer.why


# A difference within noise must not change a graph: 4 % is what caches and threads around a convolution decide.
@pytest.mark.parametrize("other", [0.00192, 0.002, 0.0021])
def test_the_clock_keeps_the_original_within_noise(other: float) -> None:
    machine = FakeMachine()
    assert answer_by_clock(machine.runs({"keep": steady(0.002), "dense": steady(other)}), clock=machine).form == "keep"


# On a busy machine a median that happens to be lower proves nothing; nor may such an answer be kept for later builds.
@pytest.mark.parametrize("seed", range(10))
def test_a_jittery_win_is_not_believed(seed: int) -> None:
    machine = FakeMachine()
    jitter = np.random.default_rng(seed).uniform(0.3, 3.0, 10_000)
    runs = machine.runs({"keep": lambda i: 0.002 * jitter[i], "dense": lambda i: 0.0018 * jitter[i]})
    answer = answer_by_clock(runs, ClockRules(budget_s=0.05), clock=machine)
    assert answer.form == "keep"
    assert not answer.settled


# A machine that slows down halfway slows down everyone: interleaving must cancel it.
def test_drift_cancels() -> None:
    machine = FakeMachine()
    runs = machine.runs({"keep": lambda i: 0.001 * (1 + i / 50), "dense": lambda i: 0.0008 * (1 + i / 50)})
    assert answer_by_clock(runs, ClockRules(budget_s=1.0), clock=machine).form == "dense"


# A hopeless form must not eat the time of the others: 32 convolutions in a row take long.
def test_hopeless_forms_are_dropped_early() -> None:
    machine = FakeMachine()
    answer_by_clock(
        machine.runs({"keep": steady(0.002), "split": steady(0.2), "dense": steady(0.001)}),
        ClockRules(budget_s=1.0),
        clock=machine,
    )
    assert machine.ran.count("split") <= 5
    assert machine.ran.count("dense") > 10


def plan(kernels: int, megabytes: float) -> PlanCost:
    tensor = KernelTensor(name="t", dtype="Half", shape=(1,), bytes=int(megabytes * 1e6 / kernels))
    row = Kernel(name="k", kind="kgen", inputs=(tensor,), constants=(), outputs=(), nodes=())
    return PlanCost(rows=(row,) * kernels)


# A plan is judged by both counts: more kernels for the same bytes must lose, fewer bytes for the same kernels must win.
@pytest.mark.parametrize(
    ("original", "other", "wins"),
    [
        ((4, 4.0), (4, 3.0), True),
        ((4, 4.0), (3, 4.0), True),
        ((4, 4.0), (9, 4.0), False),
        ((4, 4.0), (4, 4.0), False),
        ((4, 4.0), (4, 8.0), False),
    ],
)
def test_plan_judge(original: tuple[int, float], other: tuple[int, float], wins: bool) -> None:
    costs = iter([plan(*original), plan(*other)])
    graph = grouped_conv_graph(RESNEXT, KEEP, Precision.FP16, TRAITS)
    answer = PlanJudge(lambda data: next(costs))({"keep": graph, "dense": graph})
    assert answer.form == ("dense" if wins else "keep")
    assert "kernels" in answer.why


def test_plan_judge_skips_what_does_not_compile() -> None:
    answers: list[PlanCost | InputError] = [plan(4, 4.0), InputError("no kernel")]

    def cost(data: bytes) -> PlanCost:
        answer = answers.pop(0)
        if isinstance(answer, InputError):
            raise answer
        return answer

    graph = grouped_conv_graph(RESNEXT, KEEP, Precision.FP16, TRAITS)
    assert PlanJudge(cost)({"keep": graph, "dense": graph}).form == "keep"
