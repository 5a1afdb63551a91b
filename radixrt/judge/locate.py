"""Where the error of an engine comes from, where a graph of it names the original's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.data.batch import Samples
from radixrt.engines.base import Analysis
from radixrt.errors import InputError
from radixrt.export.feed import Feed, repeated
from radixrt.export.graph.hash import graph_sha256
from radixrt.export.spec import BatchSpec
from radixrt.reuse import Kept, Reuse, Step, as_json
from radixrt.validate.measure.drift import drift, watched
from radixrt.validate.schema import DriftRow

IMAGES = 8
# Better than this in every layer is FP32 against FP32: there is no error to locate.
EXACT_DB = 90.0


@dataclass(frozen=True)
class Located:
    """The rows, and sentences for the report on how they were measured or why there are none."""

    rows: tuple[DriftRow, ...] = ()
    notes: tuple[str, ...] = ()


def measure(
    reference: ir.Model, deploy: ir.Model, batches: Callable[[], Iterable[Feed]], plan: Analysis | None
) -> Located:
    """Holds a deploy graph against its reference, on the device where a plan of it can be looked into.

    Args:
        reference: the float32 graph.
        deploy: the graph made from it.
        batches: gives the inputs, from the start each time.
        plan: what shows the tensors of the deploy graph as the device computes them; None runs the graph on the CPU.

    Raises:
        InputError: as :func:`radixrt.validate.measure.drift.drift` says, of the graph on the CPU.
    """
    if plan is None:
        return Located(tuple(drift(reference, deploy, batches())))
    where = f"{plan.capability.target} {plan.capability.version}"
    try:
        names = watched(reference, deploy)
        with plan.showing(names) as values:
            rows = drift(reference, deploy, batches(), values=values)
    except Exception as error:  # whatever a driver raises in an analysis must not cost the user the engine
        why = f"{where} did not show its tensors ({str(error).rstrip('.')})"
        return Located(
            tuple(drift(reference, deploy, batches())), (f"Drift is of the deploy graph on the CPU: {why}.",)
        )
    note = (
        f"Drift was measured on the device: {where} ran a second plan of the same graph that shows {len(names)} "
        "tensors inside it, which may keep apart what the engine fuses."
    )
    return Located(tuple(rows), (note,))


def locate_built(
    float32: ir.Model, deploy: ir.Model, images: Samples, size: int, plan: Analysis | None, reuse: Reuse
) -> Kept[Located]:
    """Finds where the error of a narrower precision comes from: a deploy graph beside itself before it was typed.

    Args:
        float32: the graph before it was typed.
        deploy: the deploy graph.
        images: those to look at.
        size: how many at once.
        plan: as for :func:`measure`.
        reuse: where results of earlier runs lie.
    """
    step = Step(
        "drift",
        as_json(Located),
        inputs={
            "float32": graph_sha256(float32),
            "deploy": graph_sha256(deploy),
            "images": images.prepared_sha256,
        },
        options={
            "batch": size,
            "device": None if plan is None else {"capability": plan.capability, "options": plan.options},
        },
    )
    return reuse.step(step, lambda: measure(float32, deploy, lambda: whole_batches(images, size), plan))


def locate(
    graph: Path, reference: ir.Model, images: Samples, batch: BatchSpec, plan: Analysis | None = None
) -> Located:
    """Runs a graph beside the original, layer by layer.

    Args:
        graph: a bundle's deploy graph, or an ONNX file that another tool made of the original.
        reference: the original.
        images: those to look at.
        batch: the batch sizes that the graph takes.
        plan: as for :func:`measure`.

    Returns:
        What was found: no rows where the two compute the same, or where a note says why.
    """
    shape, size = reference.graph.inputs[0].shape, batch.max
    takes = shape is None or shape[0] == size or not isinstance(shape[0], int)

    def batches() -> Iterable[Feed]:
        return whole_batches(images, size) if takes else ()

    try:
        located = measure(reference, ir.load(graph), batches, plan)
    except InputError as error:
        return Located(notes=(f"Where the error comes from was not located: {str(error).rstrip('.')}.",))
    return located if any(row.sqnr_db < EXACT_DB for row in located.rows) else replace(located, rows=())


def whole_batches(images: Samples, size: int) -> Iterator[Feed]:
    """The first samples in batches of exactly ``size``; one that holds fewer is filled up by repeating."""
    for batch in images.batches(size, max(size, IMAGES)):
        yield repeated(batch.inputs, size)
