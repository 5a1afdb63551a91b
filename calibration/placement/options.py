"""What a user may choose about a placement, and what a placement reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from radixrt.export.passes.report import RewriteReport
from radixrt.export.spec import Traits


class Ends(str, Enum):
    """Precision of the first and the last layer."""

    FLOAT = "float"
    INT8 = "int8"


@dataclass(frozen=True)
class Timed:
    """Whether a layer that hardly multiplies is quicker in INT8, as the target's clock says; ``why`` has the times."""

    int8: bool
    why: str


def timed_layers(report: RewriteReport) -> dict[str, Timed]:
    """What a rewriting found out by the clock, by node name."""
    return {layer.node: Timed(layer.form != "float", layer.why) for layer in report.light_layers}


@dataclass(frozen=True)
class PlacementOptions:
    """What to quantise, and for whom.

    Attributes:
        traits: the target's.
        exclude: layers kept in float, by node name or torch module path (which covers every layer inside).
        first: the layers that read the graph's input.
        last: the layers that make the graph's output.
        timed: what the target's clock says of depthwise convolutions and of the gate path, by node name.
    """

    traits: Traits
    exclude: frozenset[str] = frozenset()
    first: Ends = Ends.FLOAT
    last: Ends = Ends.FLOAT
    timed: Mapping[str, Timed] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptFloat:
    """A layer that stays in float, and why. ``module`` is its torch module path where the graph keeps one."""

    node: str
    module: str
    reason: str


@dataclass(frozen=True)
class RoundTrip:
    """A way from one INT8 layer to the next that passes through float arithmetic.

    Attributes:
        source: the tensor that left INT8.
        target: the tensor that entered it again.
        through: the operations between, in order.
        attention: it is the product of a feature map with its gate, which the design keeps in float.
    """

    source: str
    target: str
    through: tuple[str, ...]
    attention: bool


@dataclass(frozen=True)
class PlacementReport:
    """What a placement did.

    Attributes:
        quantized: names of the layers that run in INT8.
        kept_float: the layers that do not.
        points: tensors that carry a Q/DQ pair.
        round_trips: ways between INT8 layers through float.
        dead_channels: channels of quantised tensors that calibration only saw as zero.
    """

    quantized: tuple[str, ...]
    kept_float: tuple[KeptFloat, ...]
    points: tuple[str, ...]
    round_trips: tuple[RoundTrip, ...]
    dead_channels: int = 0

    @property
    def float_round_trips(self) -> int:
        """Round trips that no rule asks for: those outside attention products."""
        return sum(not trip.attention for trip in self.round_trips)
