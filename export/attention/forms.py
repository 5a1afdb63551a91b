"""The forms in which an attention block can be written: equal in real arithmetic, and not in what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Combine(str, Enum):
    """How the gated branches become one feature map."""

    LERP = "lerp"
    """``U1 + g * (U0 - U1)``; R = 2."""
    BLEND = "blend"
    """``U0 * g + U1 * (1 - g)``; R = 2."""
    WEIGHTS = "weights"
    """``sum_r U_r * w_r``, each weight its own tensor."""
    SCALE = "scale"
    """``X * w`` on the whole radix tensor, then the sum of its parts."""
    MIRROR = "mirror"
    """``scale`` with ``w = Concat(g, 1 - g)``: the second FC has half the rows; R = 2."""


class Parts(str, Enum):
    """How the parts of the whole radix tensor are reached."""

    SPLIT = "split"
    SLICE = "slice"
    REDUCE = "reduce"
    """Reshape to (N, R, C, H, W) and ReduceSum; only after ``scale``, and only where H and W are static."""


class Squeeze(str, Enum):
    """How branches that are maps of their own (SK) are pooled."""

    EACH = "each"
    """Each branch is pooled and the tiny results are added."""
    SUM = "sum"
    """The maps are added and pooled once: for compilers that fuse the addition into the reduction."""


@dataclass(frozen=True)
class AttentionForm:
    """Which of the equal forms to write. Where one does not apply to a block, the nearest that does is written."""

    combine: Combine = Combine.LERP
    parts: Parts = Parts.SPLIT
    squeeze: Squeeze = Squeeze.EACH

    def __str__(self) -> str:
        squeeze = ", maps summed before pooling" if self.squeeze is Squeeze.SUM else ""
        return f"{self.combine.value}, {self.parts.value}{squeeze}"
