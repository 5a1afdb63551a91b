"""What each layer costs when it alone is quantised: the table behind ``radixrt sensitivity`` and mixed precision.

For each layer its weights and the tensor it reads are quantised, all else stays in float; what that does to the
outputs is its SQNR. What INT8 saves there is measured by the caller, who can run the target; where nobody did, the
share of the network's multiplications stands for it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.int8 import outputs_sqnr_db
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.recovery.session import QuantSession, Variant
from radixrt.calibration.recovery.techniques import SearchProgress
from radixrt.export.feed import Feed, length
from radixrt.export.graph.layers import macs_of
from radixrt.export.graph.origin import module_of

Array = NDArray[Any]


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer.

    Attributes:
        node: its name in the graph.
        module: its torch module path, or its node name where the graph keeps none.
        op_type: Conv, Gemm or MatMul.
        sqnr_db: of the outputs when this layer alone is quantised; higher is safer.
        macs: its multiplications for one image.
        macs_share: of all layers' that the placement quantises, 0 to 1.
        latency_gain_ms: what INT8 saves here on the target; None where that was not measured.
    """

    node: str
    module: str
    op_type: str
    sqnr_db: float
    macs: int
    macs_share: float
    latency_gain_ms: float | None = None

    @property
    def noise(self) -> float:
        """Noise power relative to the outputs' own: what sums over layers, as long as their errors are independent."""
        return 0.0 if math.isinf(self.sqnr_db) else 10 ** (-self.sqnr_db / 10)


def sensitivity(
    model: ir.Model,
    table: CalibrationTable,
    samples: Feed,
    options: PlacementOptions,
    *,
    outputs: tuple[str, ...] = (),
    gains: Mapping[str, float] | None = None,
    on_progress: Callable[[SearchProgress], None] | None = None,
) -> tuple[LayerSensitivity, ...]:
    """Measures every layer that a placement quantises.

    Args:
        model: the float32 graph; not changed.
        table: its calibration.
        samples: a handful is enough, 16 say.
        options: the placement.
        outputs: those whose error counts; the graph's first where empty.
        gains: milliseconds that INT8 saves, by layer name, where somebody measured them.
        on_progress: called after each layer.

    Returns:
        the layers, the most sensitive first.
    """
    session = QuantSession(model, options, table, outputs=outputs)
    reference = session.answers(samples, Variant())
    total = sum(macs_of(layer) for layer in session.decision.layers) or 1
    rows: list[LayerSensitivity] = []
    started = time.monotonic()
    count = len(session.decision.layers)
    for i, (layer, root) in enumerate(session.layer_roots):
        alone = Variant({root: table.amax(root)}, frozenset({layer.name}))
        macs = macs_of(layer)
        rows.append(
            LayerSensitivity(
                node=layer.name,
                module=module_of(layer.node) or layer.name,
                op_type=layer.node.op_type,
                sqnr_db=outputs_sqnr_db(reference, session.answers(samples, alone), length(samples)),
                macs=macs,
                macs_share=macs / total,
                latency_gain_ms=None if gains is None else gains.get(layer.name),
            )
        )
        if on_progress is not None:
            left = (time.monotonic() - started) / (i + 1) * (count - i - 1)
            on_progress(SearchProgress("sensitivity", i + 1, count, left))
    return tuple(sorted(rows, key=lambda row: (row.sqnr_db, row.node)))
