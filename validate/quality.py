"""The part of ``report.json`` that says how good the answers are: a task's metrics, and more of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

# A figure that is not finite is a bug in what measured it, and JSON cannot say it either.
FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


class _Frozen(BaseModel):
    model_config = FROZEN


@dataclass(frozen=True)
class MetricSpec:
    """One figure of a task.

    Attributes:
        name: as gates and ``report.json`` call it.
        title: as people do.
        share: it lies between 0 and 1, is told in percent, and changes in points (hundredths); else it has a unit of
            its own, which is also that of its points.
        higher_is_better: more of it is better.
        by_labels: the answers are held against labels, else the engine's against the original's.
    """

    name: str
    title: str
    share: bool = True
    higher_is_better: bool = True
    by_labels: bool = True

    @property
    def points(self) -> float:
        """How many points one unit of it is."""
        return 100.0 if self.share else 1.0


class Regression(_Frozen):
    """Points of the task's metric that the engine lost since an earlier ``bundle``, with their paired 95 % interval."""

    bundle: str
    drop_points: float
    drop_ci95_points: tuple[float, float]


class Metric(_Frozen):
    """A figure of both networks on the same ``samples`` images.

    ``by_labels`` says that both were held against labels; else the engine was held against the original, whose own
    figure is then that of equality. Where it is a ``share``, it lies between 0 and 1 and its points are hundredths;
    else both are in its own unit.
    ``delta_points`` is engine minus original, ``delta_ci95_points`` its paired 95 % interval (``interval`` says which),
    absent on a single image. ``conclusion`` says in one sentence what this many images show about the limit on the
    drop; ``images_needed`` is how many would be enough to tell, where these are not.
    """

    name: str
    title: str
    share: bool = True
    higher_is_better: bool = True
    by_labels: bool = True
    samples: int
    reference: float
    engine: float
    delta_points: float
    delta_ci95_points: tuple[float, float] | None = None
    interval: str = ""
    conclusion: str = ""
    images_needed: int | None = None
    regressions: list[Regression] = []

    @property
    def drop_points(self) -> float:
        """How many points the engine is worse."""
        # Adding zero turns the -0.0 of an unchanged figure into 0.0.
        return (-self.delta_points if self.higher_is_better else self.delta_points) + 0.0

    @property
    def drop_ci95_points(self) -> tuple[float, float] | None:
        """The interval of the drop, the smallest first."""
        if self.delta_ci95_points is None:
            return None
        low, high = self.delta_ci95_points
        return (-high + 0.0, -low + 0.0) if self.higher_is_better else (low, high)


def main_metric(metrics: Sequence[Metric]) -> Metric | None:
    """The figure that a drop is judged by: the first that labels decide."""
    return next((metric for metric in metrics if metric.by_labels), None)


class DetailTable(_Frozen):
    """What a task says beside its figures: a table, whose cells are text; ``numbers`` are the columns of numbers."""

    title: str
    note: str = ""
    head: list[str]
    rows: list[list[str]]
    numbers: list[int] = []


class Flip(_Frozen):
    """An image whose top-1 answer changed. Margins are the gap between the two largest confidences, 0 to 1."""

    image: str
    label: str
    reference: str
    engine: str
    reference_margin: float
    engine_margin: float


class ClassRow(_Frozen):
    """One class: shares are of its ``samples`` images, 0 to 1."""

    label: str
    samples: int
    reference_top1: float
    engine_top1: float


class ConfusionChange(_Frozen):
    """How many images of ``label`` were called ``predicted`` by each of the two."""

    label: str
    predicted: str
    reference: int
    engine: int


class Accuracy(_Frozen):
    """Top-1 of both on the same images, as shares from 0 to 1; their difference in points (hundredths).

    ``delta_points`` is engine minus reference; ``delta_ci95_points`` its paired 95 % interval (Tango's score interval).
    ``conclusion`` says in one sentence what can be concluded from this many images; ``images_needed`` is how many would
    be enough to tell, where these are not. The confusion matrices (rows: label, columns: answer, both in the head's
    order) are empty for more than 64 classes; ``confusion_changes`` always has the largest differences.
    """

    samples: int
    reference_top1: float
    engine_top1: float
    reference_top5: float
    engine_top5: float
    delta_points: float
    delta_ci95_points: tuple[float, float]
    mcnemar_p: float
    flips: list[Flip] = []
    classes: list[ClassRow] = []
    confusion_reference: list[list[int]] = []
    confusion_engine: list[list[int]] = []
    confusion_changes: list[ConfusionChange] = []
    images_needed: int | None = None
    conclusion: str = ""
