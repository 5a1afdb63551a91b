"""The techniques of accuracy recovery, each a search over variants of one session: ``recover.py`` has their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import outputs_sqnr_db
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable, TensorRange
from radixrt.calibration.recovery.equalise import equalised
from radixrt.calibration.recovery.session import QuantSession, Variant
from radixrt.calibration.spec import Method
from radixrt.export.feed import Feed, length

Array = NDArray[Any]
Item = TypeVar("Item")


class Technique(str, Enum):
    """A way to bring accuracy back, called as the report calls it; in the order in which they are tried."""

    RANGES = "range method for the whole network"
    EQUALISE = "cross-layer equalisation"
    BIAS = "bias correction"


_BLENDS = {"a quarter of the way from minmax to mse": 0.25, "half way from minmax to mse": 0.5}
RANGE_CHOICES = len(Method) + len(_BLENDS)
"""How many choices of ranges ``Technique.RANGES`` tries."""
LOCAL_PASSES = 2
"""How often each layer's own error is measured."""
_SAME_DB = 80.0
"""Above it two float networks differ by rounding alone."""
_HOPELESS_DB = 3.0
"""So far below what layers' own errors gave, correcting by groups is given up."""


@dataclass(frozen=True)
class SearchProgress:
    """What a display may show while a search runs."""

    step: str
    done: int
    total: int
    seconds_left: float


@dataclass(frozen=True)
class Setting:
    """What stays the same from one graph of a search to the next.

    Attributes:
        options: the placement.
        fitted: samples that choices are made on.
        judges: samples that they are judged on: a choice that only fits the images it was made on fails there.
        groups: of layers, whose biases are corrected one group after another; 0 leaves that out.
        on_progress: called after each candidate.
        outputs: those whose error is made small.
    """

    options: PlacementOptions
    fitted: Feed
    judges: Feed
    groups: int
    on_progress: Callable[[SearchProgress], None] | None
    outputs: tuple[str, ...] = ()

    def counted(self, technique: Technique, items: Sequence[Item]) -> Iterator[Item]:
        """Passes items through, and tells after each how far it is."""
        started = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if self.on_progress is not None:
                left = (time.monotonic() - started) / done * (len(items) - done)
                self.on_progress(SearchProgress(technique.value, done, len(items), left))


@dataclass(frozen=True)
class Outcome:
    """What a technique came to: a variant, the search whose graph it is of, and details for the report.

    Attributes:
        sqnr_db: of the outputs on the images that judge.
    """

    search: Search
    variant: Variant
    detail: str
    sqnr_db: float


class Search:
    """One float graph, its ranges, and the techniques that work on them.

    Args:
        model: the float32 graph; not changed.
        table: its ranges.
        session: the graph, open for trying.
        setting: images and limits.
    """

    def __init__(self, model: ir.Model, table: CalibrationTable, session: QuantSession, setting: Setting) -> None:
        self.model, self.table, self.session, self._setting = model, table, session, setting
        self._reference = session.answers(setting.judges, Variant())

    def sqnr(self, variant: Variant) -> float:
        """The SQNR of the outputs on the images that judge, in dB."""
        found = self.session.answers(self._setting.judges, variant)
        return outputs_sqnr_db(self._reference, found, length(self._setting.judges))

    def outcome(self, variant: Variant, detail: str) -> Outcome:
        """A variant, judged."""
        return Outcome(self, variant, detail, self.sqnr(variant))

    def apply(self, technique: Technique, start: Outcome) -> Outcome:
        """Looks for something better than ``start``, which is of this search, by one technique."""
        match technique:
            case Technique.RANGES:
                return self.choose_ranges(start.variant)
            case Technique.EQUALISE:
                return self.equalise(start)
            case Technique.BIAS:
                return self.correct_biases(start.variant)

    def choose_ranges(self, start: Variant) -> Outcome:
        """Chooses all ranges by one method: the one of least error of the outputs with everything quantised.

        Another range moves other means, of which biases take care: methods are compared with each layer corrected for
        its own error.
        """
        ranges = {t.name: t for t in self.table.tensors}
        choices = {"as calibrated": start.amax}
        watched = {r: ranges[r] for r in start.amax if r in ranges}
        by_method = {m.value: {r: t.candidates.by(m) or start.amax[r] for r, t in watched.items()} for m in Method}
        by_method |= {name: {r: _blend(t, share) for r, t in watched.items()} for name, share in _BLENDS.items()}
        choices |= {name: {**start.amax, **amax} for name, amax in by_method.items()}
        distinct = {tuple(amax.values()): (name, amax) for name, amax in reversed(choices.items())}
        found: dict[str, Outcome] = {}
        for name, amax in self._setting.counted(Technique.RANGES, list(distinct.values())):
            found[name] = self._alone(replace(start, amax=amax), 1)
        ranked = sorted(found, key=lambda name: -found[name].sqnr_db)
        ranking = ", ".join(f"{name} {found[name].sqnr_db:.1f}" for name in ranked)
        return replace(found[ranked[0]], detail=f"{ranked[0]}; with biases corrected: {ranking}")

    def correct_biases(self, start: Variant) -> Outcome:
        """Adds to the biases what quantisation took from the mean of each channel.

        Each layer's own error first (``local_bias.py``), of all layers at once. Then what is missing from the float
        network's means, group after group of layers, which also returns what activations made of the noise, but
        corrects layers of one group for each other: in some networks it does harm, and is given up. The better stays.
        """
        start = replace(start, shifts={})
        alone = self._alone(start, LOCAL_PASSES)
        grouped = self._by_groups(start, alone.sqnr_db) if self._setting.groups else None
        return alone if grouped is None or grouped.sqnr_db <= alone.sqnr_db else grouped

    def _alone(self, start: Variant, passes: int) -> Outcome:
        """Corrects each layer for its own error; a pass changes a little what the layers read in the next."""
        for _ in range(passes):
            errors = self.session.local_errors(self._setting.fitted, start)
            start = replace(start, shifts={name: -error for name, error in errors.items()})
        return self.outcome(start, f"{len(start.shifts)} layers, each for its own error")

    def _by_groups(self, start: Variant, enough_db: float) -> Outcome | None:
        """Corrects group after group; None where a quarter or half of them leave far less than ``enough_db``."""
        setting = self._setting
        names = [layer.name for layer in self.session.decision.layers]
        exact = self.session.channel_means(setting.fitted, Variant(), names)
        groups = [list(part) for part in np.array_split(np.array(names, dtype=object), min(setting.groups, len(names)))]
        looks = {len(groups) // 4, len(groups) // 2} - {0}
        variant = start
        for done, group in enumerate(setting.counted(Technique.BIAS, groups)):
            if done in looks and self.sqnr(variant) < enough_db - _HOPELESS_DB:
                return None
            means = self.session.channel_means(setting.fitted, variant, group)
            variant = replace(variant, shifts={**variant.shifts, **{n: exact[n] - means[n] for n in group}})
        return self.outcome(variant, f"{len(variant.shifts)} layers corrected")

    def equalise(self, start: Outcome) -> Outcome:
        """Rescales channels wherever the graph allows.

        Rounding moves means, of which biases take care afterwards, in either graph: what is compared is what is left
        once each layer is corrected for its own error.
        """
        equal = equalised(self.model, self.table.with_amax(start.variant.amax), start.variant.layers)
        if equal is None:
            return replace(start, detail="no channels between two layers could gain")
        how = self._setting
        session = QuantSession(equal.model, how.options, equal.table, outputs=how.outputs)
        search = Search(equal.model, equal.table, session, how)
        if outputs_sqnr_db(self._reference, search._reference, length(how.judges)) < _SAME_DB:
            return replace(start, detail="the rescaled network computes something else: nothing is rescaled")
        found, plain = search._alone(session.everything(equal.table), 1), self._alone(start.variant, 1)
        gained = f"with biases corrected {found.sqnr_db:.1f} dB, as it was {plain.sqnr_db:.1f}"
        detail = f"{len(equal.divisors)} layers rescaled; {gained}"
        return replace(found if found.sqnr_db > plain.sqnr_db else start, detail=detail)


def _blend(tensor: TensorRange, share: float) -> float:
    wide, narrow = tensor.candidates.minmax, tensor.candidates.mse
    return float(wide ** (1 - share) * narrow**share)
