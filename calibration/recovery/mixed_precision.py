"""Mixed precision: the layers that hurt most stay in float until a gate passes, and no more of them than that.

From the measured sensitivities, layers are ranked by the noise that INT8 adds there for each millisecond that it
saves, as profiled on the target, or for each multiplication where the target cannot be profiled. The first k of that
ranking in float, for k = 0, 1, 2, ..., are the Pareto front of noise against latency under the assumption that errors
add up. The gate measures placements on that front. The more layers stay in float, the sooner it passes, so a bisection
finds the smallest k in about log2(layers) evaluations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.recovery.sensitivity import LayerSensitivity
from radixrt.calibration.recovery.techniques import SearchProgress


@dataclass(frozen=True)
class MixedPrecision:
    """The fewest layers in float with which a gate passes.

    Attributes:
        options: the placement, with the layers that stay in float excluded.
        excluded: these layers' torch modules (or node names), the worst first.
        int8_share: share of the multiplications still in INT8, 0 to 1.
        passed: whether the gate passed; False says that it cannot, not even with every layer in float.
        evaluations: how many placements the gate measured.
        forgone_ms: what INT8 would have saved in the excluded layers; None where that was not measured.
        stopped: the user ended the search; this is the best until then.
    """

    options: PlacementOptions
    excluded: tuple[str, ...]
    int8_share: float
    passed: bool
    evaluations: int
    forgone_ms: float | None = None
    stopped: bool = False


def ranking(rows: tuple[LayerSensitivity, ...]) -> list[LayerSensitivity]:
    """Layers by the noise that INT8 adds for each unit of work it saves, the worst first."""
    measured = all(row.latency_gain_ms is not None for row in rows)

    def saved(row: LayerSensitivity) -> float:
        gain = row.latency_gain_ms if measured else row.macs_share
        return max(float(gain or 0.0), 1e-9)

    return sorted(rows, key=lambda row: (-row.noise / saved(row), row.node))


def keep_worst_in_float(
    rows: tuple[LayerSensitivity, ...],
    options: PlacementOptions,
    gate: Callable[[PlacementOptions], bool],
    *,
    on_progress: Callable[[SearchProgress], None] | None = None,
) -> MixedPrecision:
    """Finds the fewest layers in float with which a gate passes. Ctrl-C ends it with the best that passed so far.

    Args:
        rows: measured sensitivities.
        options: the placement to start from.
        gate: builds a placement, measures it, and says whether it is accurate enough.
        on_progress: called after each evaluation.
    """
    order = ranking(rows)
    most = len(order).bit_length() + 2
    answers: dict[int, bool] = {}
    started = time.monotonic()

    def placement(count: int) -> PlacementOptions:
        return replace(options, exclude=options.exclude | {row.node for row in order[:count]})

    def passes(count: int) -> bool:
        if count not in answers:
            answers[count] = gate(placement(count))
            if on_progress is not None:
                each = (time.monotonic() - started) / len(answers)
                left = each * (most - len(answers))
                on_progress(SearchProgress("mixed precision", len(answers), most, left))
        return answers[count]

    def result(count: int, *, passed: bool, stopped: bool = False) -> MixedPrecision:
        gains = [row.latency_gain_ms for row in order[:count]]
        return MixedPrecision(
            options=placement(count),
            excluded=tuple(row.module for row in order[:count]),
            int8_share=sum(row.macs_share for row in order[count:]),
            passed=passed,
            evaluations=len(answers),
            forgone_ms=None if None in gains else sum(gain or 0.0 for gain in gains),
            stopped=stopped,
        )

    low, high = 0, len(order)  # low fails, high passes
    try:
        if passes(0):
            return result(0, passed=True)
        if not passes(len(order)):
            return result(len(order), passed=False)
        while high - low > 1:
            middle = (low + high) // 2
            if passes(middle):
                high = middle
            else:
                low = middle
    except KeyboardInterrupt:
        passed = answers.get(high, False)
        return result(high if passed else 0, passed=passed, stopped=True)
    return result(high, passed=True)
