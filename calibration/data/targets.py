"""What an image is labelled with: a class, several labels, numbers, a mask, boxes or a text.

The layout of the data says which; a task that was named says how to read what could be either.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from radixrt.calibration.data.boxes import Boxes

Target: TypeAlias = Any
"""By kind: a class index; a tuple of class indices; a tuple of numbers; the path of a mask, read as an array (H, W) of
class indices; :class:`Boxes`; a text."""


class TargetKind(str, Enum):
    """What the labels of a data set are."""

    CLASSES = "classes"
    LABELS = "several labels"
    NUMBERS = "numbers"
    MASKS = "masks"
    BOXES = "boxes"
    TEXTS = "texts"


@dataclass(frozen=True)
class Reading:
    """How labels are read.

    Attributes:
        classes: the names of the network's classes in the order of its head, where they are known: the data may then
            hold fewer classes than the head.
        kind: how a table's labels are read, which could be of several kinds; as they look where absent.
    """

    classes: tuple[str, ...] = ()
    kind: TargetKind | None = None


def identity_of(target: Target) -> object:
    """What a label is, for a record of what was compared: a mask is known by its file, boxes by a hash."""
    if isinstance(target, Boxes):
        return target.identity
    return str(target) if isinstance(target, Path) else target
