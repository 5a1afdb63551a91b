"""What a calibration is, for those who ask for one and those who read its report."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from radixrt.errors import InputError

if TYPE_CHECKING:
    from radixrt.validate.tasks.base import Interface, Task


class Method(str, Enum):
    """How a tensor's range is chosen from what was observed."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"

    @classmethod
    def parse(cls, text: str) -> Method:
        """Reads a method as a user writes it.

        Raises:
            InputError: the text names no method.
        """
        try:
            return cls(text.lower())
        except ValueError:
            raise InputError(
                f"unknown calibration method {text!r}: choose one of {', '.join(m.value for m in cls)}"
            ) from None


@dataclass(frozen=True)
class CalibrationOptions:
    """What a user may choose about a calibration. ``percentile`` is the share of values kept, in percent."""

    method: Method = Method.MINMAX
    percentile: float = 99.99


@dataclass(frozen=True)
class MaxDrop:
    """What a user allows INT8 to lose.

    Attributes:
        points: of the task's metric.
        strict: the bound of the 95 % interval must keep it, not only what was measured.
        labelled: the calibration images' labels are such as the task is judged by, and the weights are trained.
        task: whose metric is meant, with the network that it judges; classes of the first output where absent.
    """

    points: float
    strict: bool
    labelled: bool
    task: tuple[Task, Interface] | None = None


@dataclass(frozen=True)
class Recovery:
    """How to bring accuracy back.

    Attributes:
        enabled: choose ranges by their error and correct biases.
        max_drop: keep layers in float until INT8 loses no more than this; None leaves all that can be in INT8.
        outputs: those whose error is made small; the graph's first where empty.
    """

    enabled: bool = True
    max_drop: MaxDrop | None = None
    outputs: tuple[str, ...] = ()


class CalibrationSummary(BaseModel):
    """The ``calibration`` part of ``report.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    images: int
    seconds: float
    peak_bytes: int
    data_sha256: str
    reused: bool = False
