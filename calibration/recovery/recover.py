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

A search is bounded (``effort.py``), and what does not fit is left out and reported so.

Every candidate is a set of inputs to one session (``session.py``).
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
from radixrt.calibration.recovery.effort import WORK, effort_for, judging
from radixrt.calibration.recovery.session import QuantSession
from radixrt.calibration.recovery.techniques import Search, SearchProgress, Setting, Technique
from radixrt.errors import InputError
from radixrt.export.feed import Feed, length, part
from radixrt.export.graph.constants import forget
from radixrt.export.graph.layers import layers_of
from radixrt.export.graph.writer import GraphWriter

Array = NDArray[Any]


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
    effort = effort_for(model, length(samples), work)
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
            why = (
                f"the network is too large: {effort.passes} forward passes are allowed, and other techniques took them"
            )
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


def _divided(samples: Feed) -> tuple[Feed, Feed]:
    """The samples to fit to, and those that judge; a single one does both."""
    count = length(samples)
    fitted = count - judging(count)
    return (part(samples, 0, fitted), part(samples, fitted, count)) if fitted < count else (samples, samples)


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
