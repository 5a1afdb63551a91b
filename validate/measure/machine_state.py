"""One look at a machine: other work, governor, clocks, heat, from ``/proc``, ``/sys`` and nvidia-ml-py where it is.

The file imports nothing of the project and keeps to Python 3.8: devices that measure a bundle look at themselves with
it. What a machine does not tell is left out, never guessed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq")
THERMAL = Path("/sys/class/thermal")
DEVFREQ = Path("/sys/class/devfreq")
STAT = Path("/proc/stat")
# The GPUs of Jetson boards, which nvidia-ml-py does not read.
_JETSON_GPUS = ("gpu", "gm20b", "gp10b", "gv11b", "ga10b")


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
    for gpu in DEVFREQ.glob("*"):
        clock = _read(gpu / "cur_freq")
        if clock.isdigit() and gpu.name.split(".")[-1] in _JETSON_GPUS:
            numbers["GPU clock (MHz)"] = int(clock) / 1e6
    numbers.update(_read_gpu())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return MachineState(load=load, cores=cores, numbers=numbers, words=words, cpu=read_cpu())


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
