"""Limits that could never be judged, found before anything long starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from radixrt.errors import InputError
from radixrt.validate.figure_limit import FIGURES
from radixrt.validate.gates import GateLimits
from radixrt.validate.quality import MetricSpec

SINGLE_GATES = "--gate 'sqnr_db>=30' or --gate 'max_abs<=0.1'"
"""What judges an output of one number."""


def refuse_vain_limits(
    limits: GateLimits, task: str, metrics: Sequence[MetricSpec], shapes: Collection[Sequence[object]] = ()
) -> None:
    """Refuses limits that no figure of a network will ever be held against.

    Args:
        limits: what was asked for.
        task: the task's name.
        metrics: its figures.
        shapes: of each output that is floating point, samples first.

    Raises:
        InputError: a limit is on a figure that the task, or the network's outputs, do not have.
    """
    single = bool(shapes) and all(list(shape[1:]) == [1] * (len(shape) - 1) for shape in shapes)
    closeness = SINGLE_GATES if single else "min_cosine"
    for name in ("max_drop", "max_regression_drop"):
        if getattr(limits, name) is not None and not metrics:
            raise InputError(
                f"{name} judges a task's metric, and the task here is {task}, which has none: use {closeness}, or "
                "name the task with --task"
            )
    for name in ("min_agreement", "max_regression_drop"):
        if getattr(limits, name) is not None and task != "classify":
            raise InputError(
                f"{name} judges answers of classes, and the task here is {task}: use {closeness} or "
                "another --gate, or name the task with --task"
            )
    known = [*(name for spec in metrics for name in (spec.name, f"{spec.name}_drop")), *FIGURES]
    for asked in limits.figures:
        if asked.figure not in known:
            raise InputError(
                f"the gate {asked.text} is on {asked.figure}, which the task {task} does not have: its figures are "
                f"{', '.join(known)}"
            )
    if single and (limits.min_cosine is not None or any(asked.figure == "cosine_min" for asked in limits.figures)):
        raise InputError(
            "the cosine judges the direction of several numbers, and this network answers with one, whose cosine is "
            f"only its sign: use {SINGLE_GATES}"
        )
