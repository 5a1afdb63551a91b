"""What can move a timing without the engine changing: other work, governor, clocks, heat. Read before and after.

Everything comes from ``/proc`` and ``/sys`` on Linux and from nvidia-ml-py where it is installed; what a machine does
not tell is left out, never guessed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from radixrt.engines.machine import cores
from radixrt.validate.schema import MachineReading

CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")
THERMAL = Path("/sys/class/thermal")
STAT = Path("/proc/stat")
# Other work on more than this share of the cores is worth a warning.
MOST_OTHERS = 0.1


@dataclass(frozen=True)
class CpuTime:
    """Seconds: the clock, and what this process and all processes together have spent on the cores it may use."""

    clock: float
    own: float
    all: float

    def others_since(self, before: CpuTime) -> float:
        """How many cores the other processes kept busy since then, on average."""
        spent = (self.all - before.all) - (self.own - before.own)
        return max(0.0, spent / (self.clock - before.clock)) if self.clock > before.clock else 0.0


@dataclass(frozen=True)
class MachineState:
    """One look at the machine; ``numbers`` have their unit in their name, ``words`` are settings.

    ``load`` is the one-minute load average, in which this process's own work before the timing counts as well.
    """

    load: float
    cores: int
    numbers: dict[str, float] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    cpu: CpuTime | None = None


def read_machine() -> MachineState:
    """Looks at the machine now; never raises."""
    numbers: dict[str, float] = {}
    words: dict[str, str] = {}
    governor = _read(CPU / "scaling_governor")
    if governor:
        words["CPU governor"] = governor
    clock = _read(CPU / "scaling_cur_freq")
    if clock.isdigit():
        numbers["CPU clock (MHz)"] = int(clock) / 1000
    temperatures = [_read(zone / "temp") for zone in sorted(THERMAL.glob("thermal_zone*"))]
    degrees = [int(t) / 1000 for t in temperatures if t.lstrip("-").isdigit()]
    if degrees:
        numbers["hottest thermal zone (°C)"] = max(degrees)
    numbers |= _read_gpu()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return MachineState(load=load, cores=cores(), numbers=numbers, words=words, cpu=read_cpu())


def readings(before: MachineState, after: MachineState) -> list[MachineReading]:
    """Both looks side by side, for the report."""
    rows = [MachineReading(name="load average", before=f"{before.load:.2f}", after=f"{after.load:.2f}")]
    rows += [
        MachineReading(name=name, before=f"{value:.4g}", after=f"{after.numbers[name]:.4g}")
        for name, value in before.numbers.items()
        if name in after.numbers
    ]
    rows += [
        MachineReading(name=name, before=setting, after=after.words.get(name, "unknown"))
        for name, setting in before.words.items()
    ]
    return rows


def warnings(before: MachineState, after: MachineState) -> list[str]:
    """Plain sentences about what moved, from the look before the first round to the look after the last."""
    found = []
    others = after.cpu.others_since(before.cpu) if before.cpu and after.cpu else 0.0
    if others > MOST_OTHERS * before.cores:
        found.append(
            f"Other processes kept {others:.1f} of {before.cores} cores busy during the timing: times may be too long."
        )
    for name, setting in before.words.items():
        if after.words.get(name) != setting:
            found.append(f"{name} changed from {setting} to {after.words.get(name, 'unknown')} during the timing.")
        elif setting not in ("performance", "schedutil"):
            found.append(f"{name} is {setting}: clocks may follow the load; set it to performance for steady times.")
    for name, value in before.numbers.items():
        now = after.numbers.get(name, value)
        if "clock" in name and "GPU" in name and value and abs(now / value - 1) > 0.10:
            found.append(f"{name} moved from {value:.0f} to {now:.0f} during the timing.")
        if "°C" in name and now - value > 15:
            found.append(f"{name} rose from {value:.0f} to {now:.0f} during the timing: clocks may have been lowered.")
        if "throttled" in name and now:
            found.append("The GPU lowered its clocks for heat or power during the timing.")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_cpu() -> CpuTime | None:
    """What the cores of this process have done so far; None where the system does not tell."""
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    ticks = 0
    for line in _read(STAT).splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in ours:
            user, nice, system, _, _, interrupts, soft, stolen = map(int, fields[:8])
            ticks += user + nice + system + interrupts + soft + stolen
    if not ticks:
        return None
    own = os.times()
    spent = own.user + own.system + own.children_user + own.children_system
    return CpuTime(clock=time.monotonic(), own=spent, all=ticks / os.sysconf("SC_CLK_TCK"))


def _read_gpu() -> dict[str, float]:
    try:
        import pynvml
    except ImportError:
        return {}
    numbers: dict[str, float] = {}
    try:
        pynvml.nvmlInit()
        try:
            gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
            numbers["GPU clock (MHz)"] = float(pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM))
            numbers["GPU memory clock (MHz)"] = float(pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM))
            numbers["GPU temperature (°C)"] = float(pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU))
            numbers["GPU power (W)"] = float(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000
            reasons = int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
            heat = (
                pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
                | pynvml.nvmlClocksThrottleReasonHwSlowdown
                | pynvml.nvmlClocksThrottleReasonSwPowerCap
            )
            numbers["GPU throttled"] = float(bool(reasons & heat))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        pass  # Boards leave out some of these (Jetson all of them): what was read before the refusal still counts.
    return numbers
