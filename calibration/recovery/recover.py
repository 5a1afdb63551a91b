"""Accuracy recovery: what INT8 lost comes back, the cheapest technique first, each reported with what it bought.

1. *Range method*: each way of choosing ranges, for the whole network at once, with each layer corrected for its own
   error. Ranges chosen tensor by tensor fit the images they were chosen on and no others: that was tried, alone and
   with all else quantised.
2. *Cross-layer equalisation*: channels that only layers make and read are rescaled so that one scale serves all
   (``equalise.py``); the float network stays the same.
3. *Bias correction*: rounding shifts the mean of a layer's outputs, and global pooling hands exactly that on; the bias
   takes it back (Nagel et al., "Data-free quantization", 2019, with measured instead of assumed means): of each layer
   its own share, or group after group what the means of the float network are short of, whichever is better.
4. *Mixed precision*: while a caller's gate does not pass, layers stay in float (``mixed_precision.py``).

What a technique came to is kept where it raises the SQNR of the outputs on images that it was not fitted to.

A search is bounded by the multiplications of its forward passes, not by a clock, so that it finds the same on a slow
machine: large networks get fewer images and larger groups of layers, then none, and what does not fit is left out and
reported so. Each layer's own error on a few images is corrected in a network of any size: that costs little beside
calibrating it, and gives back what weights in pairs take (``saturation.py``).

Every candidate is a set of inputs to one session (``session.py``).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.recovery.session import QuantSession
from radixrt.calibration.recovery.techniques import (
    LOCAL_PASSES,
    RANGE_CHOICES,
    Search,
    SearchProgress,
    Setting,
    Technique,
)
from radixrt.errors import InputError
from radixrt.export.feed import Feed, length, part
from radixrt.export.graph.constants import forget
from radixrt.export.graph.layers import layers_of, macs_of
from radixrt.export.graph.writer import GraphWriter

Array = NDArray[Any]

_GROUPS = (12, 6)
"""Groups of layers, in order, that bias correction measures and mends one after another: the finest that fits."""
_ALONE = (0,)
"""No groups: each layer is corrected for its own error, and for nothing else."""

WORK = 7e11
"""Multiplications that one search may take by default: all techniques for a ResNeSt-50."""

_ENOUGH_IMAGES, _LEAST_IMAGES = 32, 8
_FEWEST_IMAGES = 4
"""As many are fitted to, and judge, in the largest networks: their maps have positions enough for a channel's mean."""


@dataclass(frozen=True)
class RecoveryStep:
    """What a technique bought: the SQNR of the outputs before and after, in dB, on images that it was not fitted to.

    Attributes:
        technique: what was tried.
        detail: what it came to, or why it was left out.
        before_db: the best SQNR without it.
        after_db: the SQNR with it; it was kept where this is higher.
        seconds: how long it took.
        left_out: it was not tried.
    """

    technique: Technique
    detail: str
    before_db: float = 0.0
    after_db: float = 0.0
    seconds: float = 0.0
    left_out: bool = False

    def sentence(self) -> str:
        """The step as the report prints it."""
        name = self.technique.value
        if self.left_out:
            return f"{name}: left out, {self.detail}"
        return f"{name}: {self.before_db:.1f} -> {self.after_db:.1f} dB ({self.detail}; {self.seconds:.0f} s)"


@dataclass(frozen=True)
class Recovered:
    """A table with better ranges, and a float graph with better biases: place the one on the other.

    Attributes:
        base: a float graph that computes what the original does, equalised where that helped.
        table: the ranges of ``base``.
        steps: what was tried, in order; a step that bought nothing is reported, and not kept.
        shifts: what makes up for quantisation, to be added to each layer's bias, by layer name.
    """

    base: ir.Model
    table: CalibrationTable
    steps: tuple[RecoveryStep, ...]
    shifts: dict[str, Array] = field(default_factory=dict)

    @property
    def model(self) -> ir.Model:
        """The graph to quantise: ``base`` with its biases corrected."""
        return shifted(self.base, self.shifts)


def recover(
    model: ir.Model,
    table: CalibrationTable,
    samples: Feed,
    options: PlacementOptions,
    *,
    outputs: tuple[str, ...] = (),
    on_progress: Callable[[SearchProgress], None] | None = None,
    work: float = WORK,
) -> Recovered:
    """Chooses the range method by the error of the outputs, corrects biases, equalises channels.

    Args:
        model: the float32 graph; not changed.
        table: its calibration.
        samples: some of those that calibrated, 32 to 128 of them, mixed: the first are fitted to, the last judge. Of
            a large network only the first few are used.
        options: the placement that will be used.
        outputs: those whose error is made small; the graph's first where empty.
        on_progress: called after each candidate.
        work: multiplications that all forward passes together may take.

    Raises:
        InputError: no samples.
    """
    if length(samples) == 0:
        raise InputError("accuracy recovery needs samples: give it some of those that calibrated")
    session = QuantSession(model, options, table, outputs=outputs)
    if not session.decision.layers:
        return Recovered(model.clone(), table, ())
    # A pass runs every layer, whether it is quantised or not.
    passes = int(work / max(sum(macs_of(layer) for layer in layers_of(model.graph)), 1))
    effort = _effort(passes, length(samples))
    fitted, judges = _divided(part(samples, 0, effort.images))
    setting = Setting(
        options=options,
        fitted=fitted,
        judges=judges,
        groups=effort.groups,
        on_progress=on_progress,
        outputs=outputs,
    )
    best = Search(model, table, session, setting).outcome(session.everything(table), "")
    steps: list[RecoveryStep] = []
    for technique in Technique:
        if technique not in effort.techniques:
            why = f"the network is too large: {passes} forward passes are allowed, and other techniques took them"
            steps.append(RecoveryStep(technique, why, left_out=True))
            continue
        started = time.monotonic()
        found = best.search.apply(technique, best)
        steps.append(
            RecoveryStep(
                technique,
                found.detail,
                before_db=best.sqnr_db,
                after_db=found.sqnr_db,
                seconds=time.monotonic() - started,
            )
        )
        if found.sqnr_db > best.sqnr_db:
            best = found
    ranges = best.search.table.with_amax(best.variant.amax)
    return Recovered(best.search.model.clone(), ranges, tuple(steps), best.variant.shifts)


@dataclass(frozen=True)
class _Effort:
    """How much of a search fits: images, groups of layers for bias correction, and techniques that are tried at all."""

    images: int
    groups: int
    techniques: frozenset[Technique]


def _effort(passes: int, images: int) -> _Effort:
    """What so many forward passes pay for: every technique on enough images, else the most images with ranges chosen.

    Each layer's own error on the fewest images is corrected whatever that costs.
    """
    sizes = sorted({images, *(n for n in (64, 32, 16, _LEAST_IMAGES) if n < images)}, reverse=True)
    enough = [count for count in sizes if count >= _ENOUGH_IMAGES]
    fewer = [*sizes, _FEWEST_IMAGES] if images > _FEWEST_IMAGES else sizes
    every, bias = frozenset(Technique), frozenset({Technique.BIAS})
    with_ranges = (every, bias | {Technique.RANGES})
    orders = (
        (enough, (every,), _GROUPS),
        (sizes, with_ranges, _GROUPS),
        (fewer, with_ranges, _ALONE),
        (fewer, (bias,), _ALONE),
    )
    for counts, choices, groupings in orders:
        for count, techniques, groups in itertools.product(counts, choices, groupings):
            prices = _passes(count, groups)
            if sum(prices[technique] for technique in techniques) <= passes:
                return _Effort(count, groups, techniques)
    return _Effort(fewer[-1], 0, bias)


def _passes(images: int, groups: int) -> dict[Technique, int]:
    """The forward passes that each technique takes."""
    judges = _judging(images)
    fitted = images - judges
    return {
        # Each group of bias correction sees the fitted images, and so does the float network; the judges, twice on the
        # way, and what came of either way.
        Technique.BIAS: fitted * LOCAL_PASSES + judges + (fitted * (groups + 1) + judges * 3 if groups else 0),
        # Each layer's own error once in either graph, and what came of it.
        Technique.EQUALISE: fitted * 2 + judges * 3,
        Technique.RANGES: RANGE_CHOICES * images,
    }


def _divided(samples: Feed) -> tuple[Feed, Feed]:
    """The samples to fit to, and those that judge; a single one does both."""
    count = length(samples)
    fitted = count - _judging(count)
    return (part(samples, 0, fitted), part(samples, fitted, count)) if fitted < count else (samples, samples)


def _judging(images: int) -> int:
    """How many images judge: half of them, for a difference of two techniques is smaller than that of two images."""
    return images // 2


def shifted(model: ir.Model, shifts: dict[str, Array]) -> ir.Model:
    """A copy of a graph with numbers added to the biases of its layers.

    Args:
        model: not changed.
        shifts: by layer name, shape (C,) each.
    """
    copy = model.clone()
    writer = GraphWriter(copy.graph)
    for layer in layers_of(copy.graph):
        shift = shifts.get(layer.name)
        if shift is None or layer.node.op_type == "MatMul":
            continue
        bias = np.zeros_like(shift) if layer.bias is None else layer.bias
        old = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
        layer.node.resize_inputs(3)
        corrected = writer.constant((bias + shift).astype(np.float32), f"{layer.name}_bias_corrected")
        layer.node.replace_input_with(2, corrected)
        if old is not None:
            forget(copy.graph, old)
    writer.append()
    return copy
