"""Accuracy recovery: what INT8 lost comes back, cheapest means first, each reported with what it bought.

1. *Range method*: each way of choosing ranges, for the whole network at once; one evaluation each. Ranges chosen tensor
   by tensor fit the images they were chosen on and no others: that was tried, alone and with all else quantised.
2. *Bias correction*: rounding shifts the mean of a layer's outputs, and global pooling hands exactly that on; the bias
   takes it back (Nagel et al., "Data-free quantization", 2019, with measured instead of assumed means).
3. *Cross-layer equalisation*: channels between two convolutions are rescaled so that one scale serves all
   (``equalise.py``); the float network stays the same to the last bit. Biases are then corrected anew.
4. *Mixed precision*: while a caller's gate does not pass, layers stay in float (``mixed_precision.py``).

A means is kept where it raises the SQNR of the logits on images that it was not fitted to.

A search is bounded by the multiplications of its forward passes, not by a clock, so that it finds the same on a slow
machine: large networks get fewer images and coarser stages, and what does not fit is left out and reported so.

Every candidate is a set of inputs to one session (``quant_session.py``). A search can be stopped at any time and keeps
the best that it found.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.recovery.session import QuantSession, Variant
from radixrt.calibration.recovery.techniques import (
    BIAS,
    EQUALISE,
    MEANS,
    WHOLE,
    WHOLE_NETWORK_TRIES,
    Search,
    SearchProgress,
    Setting,
    StoppedError,
)
from radixrt.errors import InputError
from radixrt.export.graph.layers import layers_of, macs_of

Array = NDArray[Any]

_STAGES = (12, 6)
"""Groups of layers, in order, that bias correction measures and mends one after another: the finest that fits."""

WORK = 5e11
"""Multiplications that one search may take by default: some ten seconds of two quiet cores for a ResNet-50."""

_LEAST_IMAGES = 8
_LEAST_JUDGES = 4


@dataclass(frozen=True)
class RecoveryStep:
    """What one means bought: the SQNR of the logits before and after, in dB, on images that it was not fitted to."""

    name: str
    before_db: float
    after_db: float
    detail: str
    seconds: float
    left_out: bool = False

    def sentence(self) -> str:
        """The step as the report prints it."""
        if self.left_out:
            return f"{self.name}: left out, {self.detail}"
        return f"{self.name}: {self.before_db:.1f} -> {self.after_db:.1f} dB ({self.detail}; {self.seconds:.0f} s)"


@dataclass(frozen=True)
class Recovered:
    """A table with better ranges, and a float graph with better biases: place the one on the other.

    Attributes:
        base: a float graph that computes what the original does, equalised where that helped.
        table: the ranges of ``base``.
        steps: what was tried, in order; a step that bought nothing is reported, and not kept.
        finished: False where the search was stopped.
        shifts: what makes up for quantisation, to be added to each layer's bias, by layer name.
    """

    base: ir.Model
    table: CalibrationTable
    steps: tuple[RecoveryStep, ...]
    finished: bool = True
    shifts: dict[str, Array] = field(default_factory=dict)

    @property
    def model(self) -> ir.Model:
        """The graph to quantise: ``base`` with its biases corrected."""
        return shifted(self.base, self.shifts)


def recover(
    model: ir.Model,
    table: CalibrationTable,
    images: Array,
    options: PlacementOptions,
    *,
    on_progress: Callable[[SearchProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    threads: int = 0,
    work: float = WORK,
) -> Recovered:
    """Chooses the range method by the error of the logits, corrects biases, equalises channels.

    Args:
        model: the float32 graph; not changed.
        table: its calibration.
        images: calibration images, float32 (N, C, H, W), 32 to 128 of them, mixed: the first are fitted to, the last
            judge. Of a large network only the first few are used.
        options: the placement that will be used.
        on_progress: told after each candidate.
        stop: asked before each candidate; True ends the search with the best found.
        threads: of the runtime; 0 lets it choose.
        work: multiplications that all forward passes together may take.

    Raises:
        InputError: no images.
    """
    if len(images) == 0:
        raise InputError("accuracy recovery needs images: give it some of those that calibrated")
    session = QuantSession(model, options, table, threads=threads)
    if not session.decision.layers:
        return Recovered(model.clone(), table, ())
    # A pass runs every layer, whether it is quantised or not.
    passes = int(work / max(sum(macs_of(layer) for layer in layers_of(model.graph)), 1))
    effort = _effort(passes, len(images))
    if effort is None:
        least = _passes(_LEAST_IMAGES, _STAGES[-1])[BIAS]
        why = f"the network is too large: {passes} forward passes are allowed, {BIAS} needs {least}"
        return Recovered(model.clone(), table, tuple(RecoveryStep(m, 0, 0, why, 0, left_out=True) for m in MEANS))
    used = images[: effort.images]
    judging = _judging(len(used))
    fitted, judges = (used[:-judging], used[-judging:]) if judging else (used, used)
    setting = Setting(options, fitted, judges, effort.stages, on_progress, stop, threads)
    search = Search(model, table, session, setting)
    best = session.everything(table)
    best_db = search.sqnr(best)
    steps: list[RecoveryStep] = []
    for name in MEANS:
        if name not in effort.means:
            why = f"the network is too large: {passes} forward passes are allowed, and the other means took them"
            steps.append(RecoveryStep(name, 0, 0, why, 0, left_out=True))
            continue
        started = time.monotonic()
        means = {WHOLE: search.whole, BIAS: search.biases, EQUALISE: search.equalise}[name]
        try:
            other, found, detail = means(best)
        except StoppedError:
            return _recovered(search, best, steps, finished=False)
        after_db = other.sqnr(found)
        steps.append(RecoveryStep(name, best_db, after_db, detail, time.monotonic() - started))
        if after_db > best_db:
            search, best, best_db = other, found, after_db
    return _recovered(search, best, steps, finished=True)


def _recovered(search: Search, best: Variant, steps: list[RecoveryStep], *, finished: bool) -> Recovered:
    ranges = search.table.with_amax(best.amax)
    return Recovered(search.model.clone(), ranges, tuple(steps), finished, best.shifts)


@dataclass(frozen=True)
class _Effort:
    """How much of a search fits: images, stages of bias correction, and the means that are tried at all."""

    images: int
    stages: int
    means: frozenset[str]


def _effort(passes: int, images: int) -> _Effort | None:
    """The most images and stages that so many forward passes pay for, with the choice of a range method where any do.

    Returns None where not even bias correction on the fewest images fits.
    """
    sizes = sorted({images, *(n for n in (64, 32, 16, _LEAST_IMAGES) if n < images)}, reverse=True)
    for needed in (frozenset({BIAS, WHOLE}), frozenset({BIAS})):
        for count in sizes:
            for stages in _STAGES:
                effort = _Effort(count, stages, _affordable(passes, _passes(count, stages)))
                if needed <= effort.means:
                    return effort
    return None


def _affordable(passes: int, prices: dict[str, int]) -> frozenset[str]:
    """The means that so many forward passes pay for, the one that buys most first."""
    means: set[str] = set()
    for name, price in prices.items():
        if price <= passes:
            passes -= price
            means.add(name)
    return frozenset(means)


def _passes(images: int, stages: int) -> dict[str, int]:
    """The forward passes that each means takes, the one that buys most first."""
    judges = _judging(images)
    fitted = images - judges
    # Each stage of bias correction sees the fitted images, and so does the float network; the judges, start and end.
    biases = fitted * (stages + 1) + judges * 2
    return {BIAS: biases, WHOLE: WHOLE_NETWORK_TRIES * fitted, EQUALISE: biases + judges * 2}


def _judging(images: int) -> int:
    """How many images judge: a quarter, but not too few while that leaves half of them to fit to."""
    return min(max(images // 4, _LEAST_JUDGES), images // 2)


def shifted(model: ir.Model, shifts: dict[str, Array]) -> ir.Model:
    """A copy of a graph with numbers added to the biases of its layers.

    Args:
        model: not changed.
        shifts: by layer name, shape (C,) each.
    """
    copy = model.clone()
    for layer in layers_of(copy.graph):
        shift = shifts.get(layer.name)
        if shift is None or layer.node.op_type == "MatMul":
            continue
        bias = np.zeros_like(shift) if layer.bias is None else layer.bias
        name = f"{layer.name}_bias_corrected"
        tensor = ir.tensor((bias + shift).astype(np.float32), name=name)
        value = ir.Value(name=name, shape=ir.Shape(shift.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        copy.graph.register_initializer(value)
        old = layer.node.inputs[2] if len(layer.node.inputs) > 2 else None
        layer.node.resize_inputs(3)
        layer.node.replace_input_with(2, value)
        if old is not None and old.name is not None and not old.uses():
            copy.graph.initializers.pop(old.name, None)
    return copy
