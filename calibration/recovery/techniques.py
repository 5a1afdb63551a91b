"""The means of accuracy recovery, each a search over variants of one session: see ``recovery.py`` for their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import sqnr_db
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable, TensorRange
from radixrt.calibration.recovery.equalise import equalised
from radixrt.calibration.recovery.session import QuantSession, Variant
from radixrt.calibration.spec import Method

Array = NDArray[Any]

WHOLE, BIAS, EQUALISE = MEANS = (
    "range method for the whole network",
    "bias correction",
    "cross-layer equalisation",
)

_BLENDS = {"a quarter of the way from minmax to mse": 0.25, "half way from minmax to mse": 0.5}
WHOLE_NETWORK_TRIES = len(Method) + len(_BLENDS)


@dataclass(frozen=True)
class SearchProgress:
    """What a display may show while a search runs."""

    step: str
    done: int
    total: int
    seconds_left: float


class StoppedError(Exception):
    """The caller wants no more candidates."""


@dataclass(frozen=True)
class Setting:
    """What stays the same from one graph of a search to the next.

    Attributes:
        options: the placement.
        fitted: images that choices are made on.
        judges: images that they are judged on: a choice that only fits the images it was made on fails there.
        stages: of bias correction.
        on_progress: told after each candidate.
        stop: asked before each candidate.
        threads: of the runtime.
    """

    options: PlacementOptions
    fitted: Array
    judges: Array
    stages: int
    on_progress: Callable[[SearchProgress], None] | None
    stop: Callable[[], bool] | None
    threads: int

    def counted(self, step: str, items: list[Any]) -> Iterator[Any]:
        """Passes items through; asks before each whether to go on, and tells after each how far it is."""
        started = time.monotonic()
        for i, item in enumerate(items):
            if self.stop is not None and self.stop():
                raise StoppedError
            yield item
            if self.on_progress is not None:
                spent = time.monotonic() - started
                self.on_progress(SearchProgress(step, i + 1, len(items), spent / (i + 1) * (len(items) - i - 1)))


class Search:
    """One float graph, its ranges, and the means that work on them.

    Args:
        model: the float32 graph; not changed.
        table: its ranges.
        session: the graph, open for trying.
        setting: images and limits.
    """

    def __init__(self, model: ir.Model, table: CalibrationTable, session: QuantSession, setting: Setting) -> None:
        self.model, self.table, self.session, self._setting = model, table, session, setting
        self._reference = session.logits(setting.judges, Variant())

    def sqnr(self, variant: Variant) -> float:
        """The SQNR of the logits on the images that judge, in dB."""
        return sqnr_db(self._reference, self.session.logits(self._setting.judges, variant))

    def whole(self, start: Variant) -> tuple[Search, Variant, str]:
        """Every group by one chooser, everything quantised: the chooser of least logit error."""
        exact = self.session.logits(self._setting.fitted, Variant())
        found = {t.name: t for t in self.table.tensors}
        choices = {"as calibrated": start.amax}
        choices |= {m.value: {r: found[r].candidates.by(m) or start.amax[r] for r in start.amax} for m in Method}
        choices |= {name: {r: _blend(found[r], share) for r in start.amax} for name, share in _BLENDS.items()}
        distinct = {tuple(amax.values()): (name, amax) for name, amax in reversed(choices.items())}
        scores: dict[str, float] = {}
        for name, amax in self._setting.counted(WHOLE, list(distinct.values())):
            variant = replace(start, amax=amax)
            scores[name] = sqnr_db(exact, self.session.logits(self._setting.fitted, variant))
        best = max(scores, key=lambda name: scores[name])
        said = ", ".join(f"{name} {db:.1f}" for name, db in sorted(scores.items(), key=lambda item: -item[1]))
        return self, replace(start, amax=choices[best]), f"{best}; {said}"

    def biases(self, start: Variant) -> tuple[Search, Variant, str]:
        """Layer after layer, the mean that quantisation took from each output channel goes to the bias."""
        setting, step = self._setting, BIAS if not start.shifts else EQUALISE
        names = [layer.name for layer in self.session.decision.layers]
        exact = self.session.channel_means(setting.fitted, Variant(), names)
        stages = [list(part) for part in np.array_split(np.array(names, dtype=object), min(setting.stages, len(names)))]
        variant = replace(start, shifts={})
        for stage in setting.counted(step, stages):
            now = self.session.channel_means(setting.fitted, variant, stage)
            variant = replace(variant, shifts={**variant.shifts, **{n: exact[n] - now[n] for n in stage}})
        return self, variant, f"{len(names)} layers corrected"

    def equalise(self, start: Variant) -> tuple[Search, Variant, str]:
        """Rescales channels wherever the graph allows, and corrects biases anew on the graph that comes of it."""
        found = equalised(self.model, self.table.with_amax(start.amax), start.layers)
        if found is None:
            return self, start, "no two convolutions with only a Relu between them could gain"
        session = QuantSession(found.model, self._setting.options, found.table, threads=self._setting.threads)
        search = Search(found.model, found.table, session, self._setting)
        said = f"{len(found.divisors)} pairs of convolutions rescaled"
        rescaled = session.everything(found.table)
        # Correcting biases is most of the work, and none of its gain: what rescaling buys shows without it.
        without, plain = search.sqnr(rescaled), self.sqnr(replace(start, shifts={}))
        if without <= plain:
            return self, start, f"{said}, but without bias correction that gives {without:.1f} dB, not {plain:.1f}"
        _, variant, _ = search.biases(replace(rescaled, shifts=start.shifts))
        return search, variant, said


def _blend(found: TensorRange, share: float) -> float:
    wide, narrow = found.candidates.minmax, found.candidates.mse
    return float(wide ** (1 - share) * narrow**share)
