"""Roofline estimates of plans that cannot run here, from the peak rates of a few GPUs: a table with its sources.

Rates are dense (no structured sparsity), and for FP16 those with FP32 accumulation, which is how convolutions are
computed. They are what the maker publishes, at boost clock; no device sustains them. A device whose figures could not
be traced to a document of the maker is not in the table.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from radixrt.engines.inspection import Estimate, Inspection, LayerRow
from radixrt.engines.layer_origin import Origins
from radixrt.engines.tensorrt.rtx.plan_cost import PlanCost
from radixrt.errors import InputError


@dataclass(frozen=True)
class Device:
    """A GPU's peak rates.

    Attributes:
        name: as users call it.
        compute_capability: such as ``8.6``.
        bandwidth_gb_s: memory bandwidth, 1e9 bytes per second.
        fp32_tflops: FP32 on the ordinary cores, 1e12 operations per second (a multiply-add is two).
        fp16_tflops: FP16 with FP32 accumulation on the tensor cores.
        int8_tops: INT8 on the tensor cores.
        source: the maker's documents that print these figures, by title, and what was derived from them.
    """

    name: str
    compute_capability: str
    bandwidth_gb_s: float
    fp32_tflops: float
    fp16_tflops: float
    int8_tops: float
    source: str

    def seconds(self, dtype: str, macs: int, moved: int) -> float:
        """Returns the roofline of one kernel: the longer of moving its bytes and computing, both at their peak.

        Args:
            dtype: the builder's name of the type that is multiplied: ``Float``, ``Half`` or ``Int8``.
            macs: multiply-adds.
            moved: bytes read and written.
        """
        peaks = {"Float": self.fp32_tflops, "Half": self.fp16_tflops, "BFloat16": self.fp16_tflops}
        rate = peaks.get(dtype, self.int8_tops if dtype in ("Int8", "UInt8") else self.fp32_tflops) * 1e12
        return max(moved / (self.bandwidth_gb_s * 1e9), 2 * macs / rate)


DEVICES = (
    Device(
        "T4", "7.5", 320, 8.1, 65, 130,
        "NVIDIA T4 datasheet (March 2019); bandwidth: NVIDIA Turing GPU Architecture whitepaper, table 5, where the "
        "datasheet prints 300",
    ),
    Device("A100", "8.0", 1555, 19.5, 312, 624, "NVIDIA A100 Tensor Core GPU datasheet, 40 GB"),
    Device(
        "RTX A6000", "8.6", 768, 38.7, 154.8, 309.7,
        "NVIDIA Ampere GA102 GPU Architecture whitepaper (v2), table 3",
    ),
    Device(
        "Jetson AGX Orin", "8.7", 204.8, 5.3, 42.5, 85,
        "NVIDIA Jetson AGX Orin Series technical brief (v1.2), 64 GB, the GPU alone: 170 sparse INT8 TOPS halved, and "
        "FP16 at half of that",
    ),
    Device(
        "Jetson Orin Nano Super", "8.7", 102, 2.1, 16.75, 33.5,
        "NVIDIA Jetson Orin Nano Super Developer Kit datasheet: 67 sparse INT8 TOPS halved, FP16 at half of that, FP32 "
        "from 1024 cores at 1.02 GHz",
    ),
    Device("RTX 4090", "8.9", 1008, 82.6, 165.2, 660.6, "NVIDIA Ada GPU Architecture whitepaper (v2.02), appendix A"),
    Device("L4", "8.9", 300, 30.3, 121, 242.5, "NVIDIA L4 Tensor Core GPU datasheet: rates with sparsity halved"),
    Device("RTX 5090", "12.0", 1792, 104.8, 209.5, 838, "NVIDIA RTX Blackwell GPU Architecture whitepaper, table 3"),
)  # fmt: skip


def find_device(name: str) -> Device:
    """Returns a device of the table.

    Raises:
        InputError: it is not in the table; the nearest names are offered.
    """
    known = {device.name.lower(): device for device in DEVICES}
    if name.strip().lower() in known:
        return known[name.strip().lower()]
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.4)
    offered = [known[key].name for key in near] or [device.name for device in DEVICES]
    raise InputError(f"no rates are known for device {name!r}: did you mean {' or '.join(offered)}?")


def devices_for(capabilities: tuple[str, ...]) -> tuple[Device, ...]:
    """Returns the devices of the table with one of these compute capabilities; all where none is named."""
    return tuple(d for d in DEVICES if not capabilities or d.compute_capability in capabilities)


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
