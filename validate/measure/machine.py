"""What can move a timing without the engine changing, told from two looks at the machine: before and after."""

from __future__ import annotations

from radixrt.validate.measure.machine_state import MachineState
from radixrt.validate.schema import MachineReading

# Other work on more than this share of the cores is worth a warning.
MOST_OTHERS = 0.1


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
