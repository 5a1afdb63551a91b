"""Mixed precision: the layers that hurt most stay in float until a gate passes, and no more of them than that.

From the measured sensitivities, layers are ranked by the noise that INT8 adds there for each multiplication it
saves. The first k of that ranking in float, for k = 0, 1, 2, ..., are the Pareto front of noise against INT8 work
under the assumption that errors add up; the gate, which measures, is asked along it. Its answer improves with k, so
a bisection finds the smallest k in about log2(layers) evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from radixrt.calibration.placement_spec import PlacementOptions
from radixrt.calibration.sensitivity import LayerSensitivity


@dataclass(frozen=True)
class MixedPrecision:
    """What was found.

    Attributes:
        options: the placement, with the layers that stay in float excluded.
        excluded: these layers' torch modules (or node names), the worst first.
        int8_share: share of the multiplications still in INT8, 0 to 1.
        passed: whether the gate passed; False says that it cannot, not even with every layer in float.
        evaluations: how often the gate was asked.
    """

    options: PlacementOptions
    excluded: tuple[str, ...]
    int8_share: float
    passed: bool
    evaluations: int


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
    stop: Callable[[], bool] | None = None,
) -> MixedPrecision:
    """Finds the fewest layers in float with which a gate passes.

    Args:
        rows: measured sensitivities.
        options: the placement to start from.
        gate: builds a placement, measures it, and says whether it is accurate enough.
        stop: asked before each evaluation; True ends with the best that passed so far.
    """
    order = ranking(rows)
    asked: dict[int, bool] = {}

    def placement(count: int) -> PlacementOptions:
        return replace(options, exclude=options.exclude | {row.node for row in order[:count]})

    def passes(count: int) -> bool:
        if count not in asked:
            asked[count] = gate(placement(count))
        return asked[count]

    def found(count: int, passed: bool) -> MixedPrecision:
        share = sum(row.macs_share for row in order[count:])
        names = tuple(row.module for row in order[:count])
        return MixedPrecision(placement(count), names, share, passed, len(asked))

    if passes(0):
        return found(0, True)
    if not passes(len(order)):
        return found(len(order), False)
    low, high = 0, len(order)  # low fails, high passes
    while high - low > 1:
        if stop is not None and stop():
            break
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle
    return found(high, True)
