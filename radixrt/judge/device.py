"""An engine that was measured on a device is held against the original here: outputs, the task's metric, latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from radixrt.engines.runners import Outputs
from radixrt.export.feed import Feed, joined, length
from radixrt.judge.measure import Trial, judge_outputs
from radixrt.judge.verdict import Verdict
from radixrt.prepare.network import Prepared
from radixrt.progress import Stages
from radixrt.remote.visit import TURNS, Found, Timed
from radixrt.validate.measure.latency import ENGINE, row_of
from radixrt.validate.measure.machine import MOST_OTHERS, readings, warnings
from radixrt.validate.measure.rounds import WIDEST, ratio
from radixrt.validate.schema import Latency, LatencyMethod, LatencyRow

ORIGINAL = "original graph in FP32"
PART_BYTES = 32 << 20


def write_images(prepared: Prepared, trial: Trial, folder: Path) -> None:
    """Writes the test samples as ``000.npz`` and so on, in the order in which :func:`judge_found` looks at them.

    Args:
        prepared: the samples.
        trial: how many judge.
        folder: an empty folder.

    Raises:
        InputError: more than 5 % of the images are unreadable.
    """
    held: list[Feed] = []
    written = 0

    def write() -> None:
        nonlocal written
        np.savez(folder / f"{written:03d}.npz", **joined(held))  # type: ignore[arg-type]  # of allow_pickle
        written += 1
        held.clear()

    size = max(trial.batch.max, prepared.test.together())
    for batch in prepared.test.batches(size, prepared.test_images(trial.data)):
        held.append(batch.inputs)
        if sum(array.nbytes for feed in held for array in feed.values()) >= PART_BYTES:
            write()
    if held:
        write()


class _Answers:
    """What the device answered, given out in the order of the samples."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files, self._at, self._part = list(files), 0, Outputs()

    def __call__(self, feed: Feed) -> Outputs:
        wanted = length(feed)
        while not self._part or len(next(iter(self._part.values()))) - self._at < wanted:
            rest = {name: array[self._at :] for name, array in self._part.items()}
            with np.load(self._files.pop(0), allow_pickle=False) as more:
                self._part = {n: np.concatenate([rest[n], more[n]]) if rest else more[n] for n in more.files}
            self._at = 0
        start, self._at = self._at, self._at + wanted
        return {name: array[start : self._at] for name, array in self._part.items()}


def judge_found(found: Found, prepared: Prepared, trial: Trial, stages: Stages) -> Verdict:
    """Holds what a device gave back against the original.

    Raises:
        InputError: there is no image to judge with, or outputs of other shapes came back.
    """
    device = found.device
    outputs = judge_outputs(_Answers(found.outputs), prepared, trial, stages, what=f"what {device.name} answered")
    notes = [
        f"Built here, measured on {device.name} ({device.ssh}) by the bundle's own run.py: outputs, latency and what "
        f"gates judge of them are the device's. Its times are over the {ORIGINAL} on the same runtime."
    ]
    notes += [f"On {device.name}, {step} took {seconds:.0f} s." for step, seconds in found.seconds.items() if seconds]
    verdict = Verdict.of(outputs, latency_of(found), notes)
    return verdict.model_copy(update={"device": device.name, "environment": found.facts.environment(device)})


def latency_of(found: Found) -> Latency:
    """The device's times as a report tells them."""
    ours = sorted((t for t in found.timed if t.runner == "bundle"), key=lambda t: t.batch)
    theirs = sorted((t for t in found.timed if t.runner == "original"), key=lambda t: t.batch)
    over = ratio(theirs[0].samples_ms, ours[0].samples_ms, paired=False)
    before, after = found.before, found.after
    others = after.cpu.others_since(before.cpu) if before.cpu and after.cpu else 0.0
    unsteady = []
    if others > MOST_OTHERS * before.cores:
        unsteady.append(f"other processes kept {others:.1f} of {before.cores} cores busy on {found.device.name}")
    if over.high > WIDEST * over.low:
        unsteady.append(f"the speed-up lies anywhere from {over.low:.2f}x to {over.high:.2f}x")
    rounds = min(len(timed.samples_ms) for timed in found.timed)
    return Latency(
        rows=[*(_row(ENGINE, timed) for timed in ours), *(_row(ORIGINAL, timed) for timed in theirs)],
        speedup_p50=over.value,
        speedup_ci95=(over.low, over.high),
        unsteady=unsteady,
        method=LatencyMethod(
            rounds=rounds,
            warmup_rounds=max(3, rounds // TURNS // 10),
            threads=0,
            interleaved=False,
            includes_transfers=True,
            baseline=ORIGINAL,
            others_cores=others,
            load_before=before.load,
            load_after=after.load,
            warnings=warnings(before, after),
            clock=f"{found.device.name}'s",
            machine=readings(before, after),
        ),
    )


def _row(name: str, timed: Timed) -> LatencyRow:
    row = row_of(name, timed.batch, [[sample / 1e3] for sample in timed.samples_ms])
    return row.model_copy(update={"device_p50_ms": timed.device_p50_ms})
