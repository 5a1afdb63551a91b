"""Accuracy recovery: what INT8 lost comes back, cheapest means first, each reported with what it bought.

1. *Ranges*: for each scale group, of the ranges that the choosers picked, the one that disturbs the logits least
(``ranges``). 2. *Bias correction*: rounding shifts the mean of a layer's outputs, and global pooling hands exactly
that on; the bias takes it
   back (Nagel et al., "Data-free quantization", 2019, with measured instead of assumed means).
3. *Mixed precision*: while a caller's gate does not pass, the layers whose quantisation costs most logit error per
   multiplication stay in float (``mixed_precision.py``).

A search is bounded by the multiplications of its forward passes, not by a clock, so that it finds the same on a slow
machine: large networks get fewer images and coarser stages, and what does not fit is left out and reported so.

Every candidate is a set of inputs to one session (``quant_session.py``). A search can be stopped at any time, by
the caller's ``stop`` or by KeyboardInterrupt, and keeps the best that it found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.layers import layers_of, macs_of
from radixrt.calibration.placement_spec import PlacementOptions
from radixrt.calibration.quant_session import QuantSession, Variant
from radixrt.calibration.quantizer import sqnr_db
from radixrt.calibration.spec import Method
from radixrt.calibration.table import CalibrationTable
from radixrt.errors import InputError

Array = NDArray[Any]

MEANS = ("ranges by logit error", "bias correction")

_STAGES = (12, 6)
"""Groups of layers, in order, that bias correction measures and mends one after another: the finest that fits."""

WORK = 5e11
"""Multiplications that one search may take by default: some ten seconds of two quiet cores for a ResNet-50."""

_LEAST_IMAGES = 8
_FEWEST = _LEAST_IMAGES * (_STAGES[-1] + 2)
_RANGES_EACH = 3  # candidates that differ, for one scale group

_FEW = 16
"""Images that compare the ranges of one tensor: their order is clear with few, since each has thousands of values."""

_MARGIN_DB = 1.5
"""A wider range is preferred to a narrower one that is better by no more than this."""


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
class RecoveryProgress:
    """What a display may show while a search runs."""

    step: str
    done: int
    total: int
    seconds_left: float


@dataclass(frozen=True)
class Recovered:
    """A table with better ranges, and a float graph with better biases: place the one on the other.

    Attributes:
        model: a copy of the float graph whose biases make up for quantisation.
        table: the ranges.
        steps: what was tried, in order; a step that bought nothing is reported, and not kept.
        finished: False where the search was stopped.
        shifts: what was added to each layer's bias, by layer name.
    """

    model: ir.Model
    table: CalibrationTable
    steps: tuple[RecoveryStep, ...]
    finished: bool = True
    shifts: dict[str, Array] = field(default_factory=dict)


def recover(
    model: ir.Model,
    table: CalibrationTable,
    images: Array,
    options: PlacementOptions,
    *,
    on_progress: Callable[[RecoveryProgress], None] | None = None,
    stop: Callable[[], bool] | None = None,
    threads: int = 0,
    work: float = WORK,
) -> Recovered:
    """Chooses ranges by the error of the logits, then corrects biases.

    Args:
        model: the float32 graph; not changed.
        table: its calibration.
        images: calibration images, float32 (N, C, H, W), 32 to 128 of them: half are fitted to, half judge. Of a large
            network only the first few are used.
        options: the placement that will be used.
        on_progress: told after each candidate.
        stop: asked after each candidate; True ends the search with the best found.
        threads: of the runtime; 0 lets it choose.
        work: multiplications that all forward passes together may take.

    Raises:
        InputError: no images.
    """
    if len(images) == 0:
        raise InputError("accuracy recovery needs images: give it some of those that calibrated")
    session = QuantSession(model, options, table, threads=threads)
    if not session.plan.layers:
        return Recovered(model.clone(), table, ())
    passes = int(work / max(sum(macs_of(layer) for layer in session.plan.layers), 1))
    effort = _effort(passes, len(images), len(session.roots))
    if effort is None:
        why = f"the network is too large: {passes} forward passes are allowed, {MEANS[1]} needs {_FEWEST}"
        return Recovered(model.clone(), table, tuple(RecoveryStep(m, 0, 0, why, 0, left_out=True) for m in MEANS))
    search = _Search(session, images[: effort.images], effort.stages, on_progress, stop)
    best = search.session.everything(table)
    steps: list[RecoveryStep] = []
    finished = True
    for name, means in zip(MEANS, (search.ranges, search.biases), strict=True):
        if means == search.ranges and not effort.ranges:
            why = f"the network is too large for a forward pass for each candidate: {passes} are allowed"
            steps.append(RecoveryStep(name, 0, 0, why, 0, left_out=True))
            continue
        started, before = time.monotonic(), search.sqnr(best)
        try:
            found, detail = means(best, table)
        except _StoppedError:
            finished = False
            break
        after = search.sqnr(found)
        steps.append(RecoveryStep(name, before, after, detail, time.monotonic() - started))
        if after > before:
            best = found
    return Recovered(shifted(model, best.shifts), table.with_amax(best.amax), tuple(steps), finished, best.shifts)


@dataclass(frozen=True)
class _Effort:
    """How much of a search fits: images, stages of bias correction, and whether ranges are tried at all."""

    images: int
    stages: int
    ranges: bool


def _effort(passes: int, images: int, groups: int) -> _Effort | None:
    """The most that so many forward passes pay for; None where not even the least fits."""
    sizes = sorted({images, *(n for n in (32, 16, _LEAST_IMAGES) if n < images)}, reverse=True)
    for count in sizes:
        for stages in _STAGES:
            # Each stage sees one half of the images and is judged on the other; so are the start and the end.
            spent = count * (stages + 2)
            if spent <= passes:
                return _Effort(count, stages, groups * _RANGES_EACH * min(_FEW, -(-count // 2)) <= passes - spent)
    return None


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


class _StoppedError(Exception):
    """The caller wants no more candidates."""


class _Search:
    def __init__(
        self,
        session: QuantSession,
        images: Array,
        stages: int,
        on_progress: Callable[[RecoveryProgress], None] | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        # What is chosen on one half is judged on the other: choices that only fit the images they were made on fail.
        self.session, self._images, self._stages = session, images[::2], stages
        self._judges = images[1::2] if len(images) > 1 else images
        self._on_progress, self._stop = on_progress, stop
        self._few = session.logits(self._images[:_FEW], Variant())
        self._reference = session.logits(self._judges, Variant())

    def sqnr(self, variant: Variant) -> float:
        return sqnr_db(self._reference, self.session.logits(self._judges, variant))

    def _alone(self, root: str, amax: float) -> float:
        return sqnr_db(self._few, self.session.logits(self._images[:_FEW], Variant({root: amax})))

    def ranges(self, start: Variant, table: CalibrationTable) -> tuple[Variant, str]:
        """Each group alone, all else in float: the range of least logit error; then the choices together."""
        chosen = dict(start.amax)
        changed = 0
        for root in self._counted(MEANS[0], list(self.session.roots)):
            found = table.find(root)
            if found is None:
                continue
            candidates = {start.amax[root], *(found.candidates.by(m) for m in Method)}
            scores = {amax: self._alone(root, amax) for amax in candidates if amax > 0}
            if scores:
                # A narrow range must earn its risk: an image with larger values than these has may come tomorrow.
                close = max(scores.values()) - _MARGIN_DB
                best = max(amax for amax, score in scores.items() if score >= close)
                changed += best != chosen[root]
                chosen[root] = best
        return replace(start, amax=chosen), f"{changed} of {len(self.session.roots)} ranges changed"

    def biases(self, start: Variant, table: CalibrationTable) -> tuple[Variant, str]:
        """Layer after layer, the mean that quantisation took from each output channel goes to the bias."""
        names = [layer.name for layer in self.session.plan.layers]
        exact = self.session.channel_means(self._images, Variant(), names)
        stages = [list(part) for part in np.array_split(np.array(names, dtype=object), min(self._stages, len(names)))]
        variant = start
        best, best_db = start, self.sqnr(start)
        for stage in self._counted(MEANS[1], stages):
            now = self.session.channel_means(self._images, variant, stage)
            variant = replace(variant, shifts={**variant.shifts, **{n: exact[n] - now[n] for n in stage}})
            # Early corrections may look bad until the later ones follow; the best prefix is what is kept.
            db = self.sqnr(variant)
            if db > best_db:
                best, best_db = variant, db
        return best, f"{len(best.shifts)} of {len(names)} layers corrected"

    def _counted(self, step: str, items: list[Any]) -> Iterator[Any]:
        started = time.monotonic()
        for i, item in enumerate(items):
            if self._stop is not None and self._stop():
                raise _StoppedError
            yield item
            if self._on_progress is not None:
                spent = time.monotonic() - started
                self._on_progress(RecoveryProgress(step, i + 1, len(items), spent / (i + 1) * (len(items) - i - 1)))
