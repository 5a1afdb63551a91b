"""What is inside an engine: its layers with precision, origin and time.

For a plan that cannot run here: its kernels and an estimate. :meth:`radixrt.engines.base.Target.inspect` fills these
tables, which the command line draws; every time in them was measured, every estimate is called one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from radixrt.engines.session import Array, Session
from radixrt.export.sides import free_middle, sized

if TYPE_CHECKING:
    from radixrt.engines.base import BuildOptions


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerRow(_Frozen):
    """One layer of an engine as it was compiled.

    Attributes:
        name: the engine's name for it.
        kind: the engine's kind of layer.
        precision: the type that it computes in, in the engine's words.
        origin: the torch modules that were fused into it; empty where the engine made it up.
        mean_us: time of one run in microseconds; None where it cannot run here.
        bytes_moved: bytes read and written; None where the engine does not tell.
        macs: multiply-adds; None where they are not known.
    """

    name: str
    kind: str
    precision: str
    origin: tuple[str, ...]
    mean_us: float | None = None
    bytes_moved: int | None = None
    macs: int | None = None


class Estimate(_Frozen):
    """A roofline estimate for one device: no kernel can be quicker than this, and real ones are slower."""

    device: str
    compute_capability: str
    total_us: float
    memory_bound_share: float


class Inspection(_Frozen):
    """An engine's layers.

    Attributes:
        target: the engine's target.
        measured: the times are measurements of this machine; otherwise there are none.
        runs: how many runs the times are the mean of.
        rows: the layers in the order in which they run.
        total_us: the sum of the layers' times.
        kernels: how many of them there are.
        bytes_moved: their sum, where the engine tells.
        macs: their sum, where they are known.
        estimates: for plans that do not run here.
        notes: sentences for the reader.
    """

    target: str
    measured: bool
    runs: int
    rows: tuple[LayerRow, ...]
    total_us: float | None
    kernels: int
    bytes_moved: int | None
    macs: int | None
    estimates: tuple[Estimate, ...] = ()
    notes: tuple[str, ...] = ()


def measured(target: str, rows: tuple[LayerRow, ...], runs: int) -> Inspection:
    """Makes the table of an engine that was profiled here."""
    moved = [row.bytes_moved for row in rows if row.bytes_moved is not None]
    return Inspection(
        target=target,
        measured=True,
        runs=runs,
        rows=rows,
        total_us=sum(row.mean_us or 0.0 for row in rows),
        kernels=len(rows),
        bytes_moved=sum(moved) if moved else None,
        macs=None,
        notes=("Profiling slows each layer a little: the sum is more than the engine's latency.",),
    )


def noise(session: Session, options: BuildOptions) -> dict[str, Array]:
    """Inputs for an engine that is looked into, in the shapes that it is tuned for."""
    random, free = np.random.default_rng(0), free_middle(options.sides)
    return {
        spec.name: random.normal(0, 1, sized(spec.shape, options.batch.opt, free)).astype(spec.dtype)
        for spec in session.inputs
    }
