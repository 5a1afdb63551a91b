"""What is inside an engine: its layers with precision, origin and time.

For a plan that cannot run here: its kernels and an estimate. :func:`inspect_engine` is the entry. What it returns is a
table that the command line draws; every time in it was measured, every estimate is called one.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.engines.layer_origin import Origins
from radixrt.engines.tensorrt.plan_cost import PlanCost, plan_cost
from radixrt.engines.tensorrt.roofline import Device, devices_for, find_device
from radixrt.errors import InputError


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

    def by_origin(self) -> tuple[tuple[str, float], ...]:
        """Returns time (measured) or bytes (not measured) per torch module, the greatest first, for a bar chart."""
        sums: dict[str, float] = {}
        for row in self.rows:
            key = row.origin[0] if row.origin else f"({row.kind})"
            sums[key] = sums.get(key, 0.0) + float((row.mean_us if self.measured else row.bytes_moved) or 0)
        return tuple(sorted(sums.items(), key=lambda item: -item[1]))


def inspect_engine(
    target: str,
    engine: Path,
    deploy: Path,
    options: BuildOptions,
    *,
    devices: tuple[str, ...] = (),
    runs: int = 20,
) -> Inspection:
    """Looks into an engine.

    Args:
        target: the target's name.
        engine: the engine's file.
        deploy: the deploy graph that it was built from, for the origin of layers.
        options: how it was built; batch, threads and compute capabilities are used.
        devices: whose roofline to estimate; those of the plan's compute capabilities where none is named.
        runs: how many runs the times are the mean of.

    Raises:
        InputError: the engine is damaged, or a device is not in the table.
        UnavailableError: the target's library is missing.
    """
    chosen = tuple(find_device(name) for name in devices) or devices_for(options.compute_capabilities)
    origins = Origins(deploy)
    if target == "onnxruntime":
        from radixrt.engines.cpu.inspect import onnxruntime_rows

        return _measured(target, onnxruntime_rows(engine, origins, options, runs), runs)
    if target == "openvino":
        from radixrt.engines.cpu.inspect import openvino_rows

        return _measured(target, openvino_rows(engine, origins, options, runs), runs)
    if registry.get(target).capability().runs:
        from radixrt.engines.tensorrt.inspect import plan_rows

        return _measured(target, plan_rows(target, engine, origins, options, runs), runs)
    if target != "tensorrt-rtx":
        raise InputError(f"a {target} plan is inspected where it runs: {registry.get(target).capability().reason}")
    kernels = engine.with_name("engine.kernels.json")
    cost = PlanCost.model_validate_json(kernels.read_bytes()) if kernels.exists() else plan_cost(deploy, options)
    return from_cost(target, cost, origins, chosen)


def from_cost(target: str, cost: PlanCost, origins: Origins, devices: tuple[Device, ...]) -> Inspection:
    """Makes the table of a plan that cannot run here from its compiled kernels."""
    rows = tuple(
        LayerRow(
            name=row.name,
            kind=row.kind,
            precision=row.precision,
            origin=origins.of(row.nodes),
            bytes_moved=row.bytes_read + row.bytes_written,
            macs=row.macs,
        )
        for row in cost.rows
    )
    return Inspection(
        target=target,
        measured=False,
        runs=0,
        rows=rows,
        total_us=None,
        kernels=cost.kernels,
        bytes_moved=cost.bytes_moved,
        macs=cost.macs,
        estimates=tuple(estimate(cost, device) for device in devices),
        notes=(
            "The plan was not executed: kernels, types and bytes are the builder's own list, and times are estimates.",
            "An estimate takes each kernel at the device's peak bandwidth and peak rate, with nothing cached and no "
            "time between kernels: it ranks plans, and no device reaches it.",
        ),
    )


def estimate(cost: PlanCost, device: Device) -> Estimate:
    """Returns the sum of the kernels' rooflines on a device."""
    moved = [row.bytes_read + row.bytes_written for row in cost.rows]
    times = [device.seconds(row.precision, row.macs, size) for row, size in zip(cost.rows, moved, strict=True)]
    memory = sum(t for t, size in zip(times, moved, strict=True) if t <= size / (device.bandwidth_gb_s * 1e9))
    total = sum(times)
    return Estimate(
        device=device.name,
        compute_capability=device.compute_capability,
        total_us=total * 1e6,
        memory_bound_share=memory / total if total else 0.0,
    )


def _measured(target: str, rows: tuple[LayerRow, ...], runs: int) -> Inspection:
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
