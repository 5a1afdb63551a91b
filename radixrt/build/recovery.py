"""What INT8 lost comes back before the graph is placed, and what is still missing is left in float."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.build.layer_gains import layer_gains
from radixrt.calibration.data.batch import Samples
from radixrt.calibration.placement.decision import decide
from radixrt.calibration.placement.grid import amax_of
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable, read_table, write_table
from radixrt.calibration.recovery.effort import FEWEST_IMAGES, WORK, effort_for
from radixrt.calibration.recovery.mixed_precision import MixedPrecision, keep_worst_in_float
from radixrt.calibration.recovery.recover import recover, shifted
from radixrt.calibration.recovery.sensitivity import sensitivity
from radixrt.calibration.recovery.session import QuantSession, Variant
from radixrt.calibration.recovery.techniques import SearchProgress
from radixrt.calibration.spec import MaxDrop, Recovery
from radixrt.engines.base import Target
from radixrt.errors import InputError
from radixrt.export.feed import alike, joined
from radixrt.export.graph.facts import bytes_of, infer, root_of
from radixrt.export.graph.hash import graph_sha256
from radixrt.export.reader.simplify import write_onnx
from radixrt.progress import Stages
from radixrt.reuse import Codec, Reuse, Step
from radixrt.validate.quality import main_metric
from radixrt.validate.tasks.base import OutputsJudged, Trust
from radixrt.validate.tasks.choose import interface_of
from radixrt.validate.tasks.classify import Classify

RECOVERY_IMAGES = 128
SENSITIVITY_IMAGES = 16
SEARCH_BYTES = 1 << 27
"""What the samples of a search and their answers may take: they stay in memory, however many the data has."""
NAMES_IN_SENTENCE = 8

_GRAPH, _TABLE, _WORDS, _SHIFTS = "graph.onnx", "calibration.json", "recovery.json", "shifts.npz"


@dataclass(frozen=True)
class Improved:
    """What is to be placed.

    Attributes:
        base: a float graph that computes what the original does.
        table: its ranges.
        exclude: layers that stay in float.
        sentences: what was done, for the report.
        shifts: what is added to the biases of layers in INT8, by layer name.
        reused: what was taken from an earlier run.
    """

    base: ir.Model
    table: CalibrationTable
    exclude: frozenset[str] = frozenset()
    sentences: tuple[str, ...] = ()
    shifts: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    reused: tuple[str, ...] = ()

    @property
    def model(self) -> ir.Model:
        """The graph to place ranges on: ``base`` with its biases corrected."""
        return shifted(self.base, self.shifts)


def improved(
    model: ir.Model,
    table: CalibrationTable,
    images: Samples,
    options: PlacementOptions,
    recovery: Recovery,
    stages: Stages,
    reuse: Reuse,
    target: Target,
) -> Improved:
    """Recovers accuracy, then leaves layers in float where the user set a limit that INT8 does not keep.

    Args:
        model: the float32 graph; not changed.
        table: its calibration.
        images: those that calibrated; the test must not choose anything.
        options: the placement that will be used.
        recovery: what to do.
        stages: where progress is shown.
        reuse: where results of earlier runs lie.
        target: whose engines show what INT8 saves.
    """
    found = Improved(model, table)
    if recovery.enabled:
        with stages.stage("Recovering accuracy"):
            found = _recovered(model, table, images, options, recovery.outputs, stages, reuse)
    if recovery.max_drop is not None:
        with stages.stage(f"Keeping the drop within {recovery.max_drop.points:g} points"):
            found = _mixed(found, images, options, recovery.max_drop, stages, target)
    return found


def _recovered(
    model: ir.Model,
    table: CalibrationTable,
    images: Samples,
    options: PlacementOptions,
    outputs: tuple[str, ...],
    stages: Stages,
    reuse: Reuse,
) -> Improved:
    most = searchable(images, model, RECOVERY_IMAGES, outputs)
    count = effort_for(model, most).images

    def make() -> Improved:
        few = joined(alike(batch.inputs for batch in images.batches(images.together(), count)))
        got = recover(
            model,
            table,
            few,
            options,
            outputs=outputs,
            on_progress=lambda p: stages.at(p.done, p.total, p.seconds_left),
        )
        sentences = tuple(step.sentence() for step in got.steps)
        return Improved(got.base, got.table, sentences=sentences, shifts=dict(got.shifts))

    step = Step(
        "recovery",
        Codec(_write, _read),
        inputs={"graph": graph_sha256(model), "table": table.model_dump_json(), "data": images.prepared_sha256},
        options={
            "traits": asdict(options.traits),
            "int8": sorted(name for name, timed in options.timed.items() if timed.int8),
            "images": count,
            "work": WORK,
            "outputs": outputs,
        },
    )
    kept = reuse.step(step, make)
    return replace(kept.value, reused=kept.reused)


def searchable(images: Samples, model: ir.Model, most: int, outputs: Sequence[str] = ()) -> int:
    """How many samples a search may keep in memory, with the answers that it holds against each other.

    Args:
        images: those that there are.
        model: the graph that answers.
        most: the largest number.
        outputs: those that are compared; the graph's first where empty.
    """
    values = [value for value in model.graph.outputs if value.name in outputs] or model.graph.outputs[:1]
    each = images.sample_bytes + sum(bytes_of(value) or 0 for value in values)
    return min(len(images), most, max(SEARCH_BYTES // max(each, 1), FEWEST_IMAGES))


def _write(found: Improved, folder: Path) -> None:
    write_onnx(found.base, folder / _GRAPH)
    write_table(found.table, folder / _TABLE)
    words = {"sentences": found.sentences, "shifted": list(found.shifts)}
    (folder / _WORDS).write_text(json.dumps(words))
    np.savez(folder / _SHIFTS, *found.shifts.values())


def _read(folder: Path) -> Improved:
    words = json.loads((folder / _WORDS).read_text())
    with np.load(folder / _SHIFTS) as stored:
        shifts = {name: stored[f"arr_{i}"] for i, name in enumerate(words["shifted"])}
    ranges = read_table(folder / _TABLE)
    return Improved(ir.load(folder / _GRAPH), ranges, sentences=tuple(words["sentences"]), shifts=shifts)


def _mixed(
    found: Improved, images: Samples, options: PlacementOptions, limit: MaxDrop, stages: Stages, target: Target
) -> Improved:
    gate = _Gate(found, images, options, limit)
    choice = MixedPrecision(options, (), 1.0, True, 1)
    if not gate(options):
        try:
            choice = _search(found, images, options, gate, stages, target)
        except KeyboardInterrupt:
            choice = MixedPrecision(options, (), 1.0, False, 1, stopped=True)
    sentence = f"mixed precision: {_said(choice, gate)}"
    if choice.stopped:
        stages.note(f"Stopped: the build goes on with the best that was found ({sentence}).")
    if not choice.passed:
        return replace(found, sentences=(*found.sentences, sentence))
    # A layer in float needs no correction, and with it would compute something else than the original.
    shifts = {name: shift for name, shift in found.shifts.items() if name not in choice.options.exclude}
    return replace(found, exclude=choice.options.exclude, sentences=(*found.sentences, sentence), shifts=shifts)


def _search(
    found: Improved, images: Samples, options: PlacementOptions, gate: _Gate, stages: Stages, target: Target
) -> MixedPrecision:
    aims = gate.aims
    few = next(images.batches(searchable(images, found.base, SENSITIVITY_IMAGES, aims))).inputs
    gains = layer_gains(found.base, found.table, options, target)

    def show(progress: SearchProgress) -> None:
        stages.at(progress.done, progress.total, progress.seconds_left)

    rows = sensitivity(found.base, found.table, few, options, outputs=aims, gains=gains, on_progress=show)
    return keep_worst_in_float(rows, options, gate, on_progress=show)


class _Gate:
    """Asks whether a placement keeps the limit on the calibration images, with one session for all placements.

    Raises:
        InputError: there are no labels, and the task cannot take the original's answers for the truth.
    """

    def __init__(self, found: Improved, images: Samples, options: PlacementOptions, limit: MaxDrop) -> None:
        self.limit, self._found, self._images = limit, found, images
        self._graph = infer(found.base.clone())
        self._task, network = limit.task or (Classify(), interface_of(self._graph.graph))
        # The images' labels, or what the original answers, are what the head is held against here.
        self._network = replace(network, labelled=True)
        self._session = QuantSession(found.base, options, found.table, outputs=self._task.needs(network))
        self.aims = self._task.aims(network)
        self.labelled = limit.labelled and images.targets is not None
        self.images = 0
        self.lost: dict[frozenset[str], str] = {}

    def __call__(self, options: PlacementOptions) -> bool:
        decision = decide(self._graph, options)
        names = {layer.name for layer in decision.layers}
        variant = Variant(
            {root_of(value).name or "": amax_of(value, self._found.table) for value in decision.points},
            frozenset(names),
            {name: shift for name, shift in self._found.shifts.items() if name in names},
        )
        judge = self._task.judge(self._network, Trust(True, self.limit.points))
        self.images = 0
        for batch in self._images.batches(self._images.together()):
            reference = self._session.answers(batch.inputs, Variant())
            targets = batch.targets if self.labelled else self._task.truth(self._network, reference)
            if targets is None:
                raise InputError(
                    f"max_drop cannot be kept: the task is {self._task.name}, and its calibration images have no labels"
                )
            judge.add(reference, self._session.answers(batch.inputs, variant), replace(batch, targets=targets))
            self.images += len(batch.names)
        return self._keeps(judge.result(), options)

    def _keeps(self, judged: OutputsJudged, options: PlacementOptions) -> bool:
        main = main_metric(judged.metrics)
        assert main is not None
        drop, bound = main.drop_points, main.drop_ci95_points
        self.lost[options.exclude] = f"{drop:.4g} {'points ' if main.share else ''}of {main.title} lost"
        if judged.accuracy is not None:
            # What quantisation happens to gain on few images is luck, so it does not pay for what it loses.
            lost = sum(flip.reference == flip.label for flip in judged.accuracy.flips)
            drop = 100 * lost / main.samples
            self.lost[options.exclude] = f"{lost} answers lost"
        if self.limit.strict and bound is not None:
            drop = bound[1]
        return drop <= self.limit.points + 1e-9


def _said(choice: MixedPrecision, gate: _Gate) -> str:
    by = "their labels" if gate.labelled else "the original's answers, for want of labels"
    asked = f"a drop of at most {gate.limit.points:g} points"
    bound = " with its 95 % bound" if gate.limit.strict else ""
    where = f"on {gate.images} calibration images, by {by}"
    if not choice.passed and choice.stopped:
        return f"the search for {asked}{bound} was stopped before it found one; all INT8 was kept"
    if not choice.passed:
        return f"{asked}{bound} cannot be reached {where}, not even with every layer in float; all INT8 was kept"
    lost = f"{gate.lost[choice.options.exclude]} {where}"
    if not choice.excluded:
        return f"{asked}{bound} holds with no layer in float ({lost})"
    names = ", ".join(choice.excluded[:NAMES_IN_SENTENCE])
    more = len(choice.excluded) - NAMES_IN_SENTENCE
    costs = "" if choice.forgone_ms is None else f", {_cost(choice.forgone_ms)}"
    stopped = "; the search was stopped, fewer layers may do" if choice.stopped else ""
    return (
        f"{asked}{bound} holds with {len(choice.excluded)} layers in float ({names}"
        f"{f' and {more} more' if more > 0 else ''}): {choice.int8_share:.1%} of the multiplications that could "
        f"be INT8 are{costs} ({lost}; {choice.evaluations} placements tried{stopped})"
    )


def _cost(forgone_ms: float) -> str:
    if forgone_ms >= 0:
        return f"which forgoes {forgone_ms:.2f} ms of what INT8 saves by the target's profiler"
    return f"which is {-forgone_ms:.2f} ms quicker by the target's profiler, because INT8 is slower in some of them"
