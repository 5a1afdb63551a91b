"""``make fault-check``: kills ``radixrt engine`` at its operations on files and at random moments, then looks around.

After each kill the output is the bundle of before or that of the killed run, whole, with the report of the same run,
and every entry of the stage cache is what its stage wrote. At the end the command runs through, and nothing that the
kills left is there any more.

The command is the real one, ``radixrt.cli.main()``, in a process of its own. It is forked from this one, which has
imported the libraries, so that a kill costs the command's work and not the imports. Python's audit hook counts its
operations on files below the working folder (opening, making, renaming, removing). Every stage ends with some, so
kills before the n-th one, with n running over the whole command, fall on every stage's boundary.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from radixrt.engines.bundle.folder import REPORT_NAME, Bundle
from radixrt.engines.cache.results import StageCache
from radixrt.validate.schema import Report
from tests.faults.sweeps import sweep_check

EVENTS = frozenset(
    {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.utime", "shutil.rmtree"}
)
# Imported before the first fork. Nothing here starts a thread before it works, which forking would not survive.
PRELOAD = (
    "torch",
    "timm",
    "torchvision",
    "onnxruntime",
    "onnxsim",
    "onnxscript",
    "torch.onnx",
    "plotly.graph_objects",
    "scipy.stats",
    "radixrt.cli",
    "radixrt.build.pipeline",
)
STOPS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Run:
    """One build: its weights' seed and its precision tell its bundle from every other one's."""

    seed: int
    precision: str

    def arguments(self, work: Path) -> list[str]:
        """The command line, below the word ``radixrt``."""
        network = Path(__file__).with_name("network.py")
        return [
            *("engine", "--model", f"{network}:make", "--num-classes", "2", "--data", str(work / "data")),
            *("--input-size", "3,32,32", "--mean", "0.5", "--std", "0.25", "--target", "onnxruntime"),
            *("--precision", self.precision, "--seed", str(self.seed), "--latency-rounds", "2", "--threads", "1"),
            *("--output", str(work / "out" / "bundle")),
        ]


@dataclass
class Harness:
    """Starts, kills and checks. ``work`` holds the images, the cache and the output; ``kills`` counts what hit."""

    work: Path
    kills: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def output(self) -> Path:
        return self.work / "out" / "bundle"

    def start(self, run: Run, *, kill_before: int = 0, report_to: int | None = None) -> int:
        """Forks the command.

        Args:
            run: what to build.
            kill_before: the number of the file-system operation before which the command kills itself; 0 for never.
            report_to: a descriptor that takes the number of operations when the command is done.

        Returns:
            The child's process number.
        """
        child = os.fork()
        if child:
            return child
        code = 70
        try:
            self._become_command(run, kill_before, report_to)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:  # what comes through here is what the check is looking for
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _become_command(self, run: Run, kill_before: int, report_to: int | None) -> None:
        log = os.open(self.work / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["radixrt", *run.arguments(self.work)]
        os.environ["XDG_CACHE_HOME"] = str(self.work / "cache")
        below, seen = str(self.work), 0

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in EVENTS and any(isinstance(a, (str, Path)) and str(a).startswith(below) for a in arguments):
                seen += 1
                if seen == kill_before:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            importlib.import_module("radixrt.cli").main()
        finally:
            sys.stdout.flush()
            if report_to is not None:
                os.write(report_to, str(seen).encode())

    def finish(self, run: Run) -> tuple[int, float]:
        """Runs the command to its end.

        Returns:
            How many file-system operations it made, and its seconds.

        Raises:
            RuntimeError: it failed.
        """
        here, there = os.pipe()
        started = time.monotonic()
        child = self.start(run, report_to=there)
        os.close(there)
        _, status = os.waitpid(child, 0)
        said = os.read(here, 32)
        os.close(here)
        if os.waitstatus_to_exitcode(status) != 0:
            raise RuntimeError(f"the command failed by itself; the end of its output:\n{self._log_end()}")
        return int(said), time.monotonic() - started

    def _log_end(self) -> str:
        return "\n".join((self.work / "log").read_text(errors="replace").splitlines()[-15:])

    def kill(self, run: Run, *, before: int = 0, after_s: float = 0, stop: signal.Signals = signal.SIGKILL) -> None:
        """Starts the command, stops it, and checks what is left."""
        old = (self.output / "manifest.json").read_bytes()
        child = self.start(run, kill_before=before)
        if not before:
            time.sleep(after_s)
            os.kill(child, stop)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        # 1 would be a traceback: whatever a signal makes of the command, it must not be that.
        if code > 0 and code not in (128 + stop, 70 if stop is signal.SIGKILL else 128 + stop):
            raise AssertionError(f"the command ended with {code} after {stop.name}:\n{self._log_end()}")
        self.kills += code != 0
        ended = signal.Signals(-code).name if code < 0 else f"{stop.name}, tidied up" if code else "finished first"
        self.counts[f"{'at an operation' if before else 'at a random moment'}: {ended}"] += 1
        self.check(run, old)

    def check(self, run: Run, old: bytes) -> None:
        """The promise, after one kill.

        Raises:
            InputError: the output is no whole bundle.
            AssertionError: it is neither the old one nor the run's, or the cache believes what is damaged.
        """
        bundle = Bundle.read(self.output)
        if (self.output / "manifest.json").read_bytes() == old:
            self.counts["left the old bundle"] += 1
        else:
            self.counts["left the new bundle"] += 1
            assert bundle.manifest.precision == run.precision, "a bundle of another run"
            command = Report.model_validate_json((bundle.path / REPORT_NAME).read_bytes()).command
            assert f"--seed {run.seed} " in command, "a report of another run"
        root = self.work / "cache" / "radixrt" / "stages"
        with StageCache(root) as cache:
            entries = cache.entries()
            whole = sum(cache.get(entry.key) is not None for entry in entries)
        assert whole == len(entries), "a kill left a damaged entry under a final name"
        self.counts["cache entries checked"] += whole


def write_images(folder: Path) -> None:
    """Two classes of noise, a few images each."""
    rng = np.random.default_rng(0)
    for part in ("calibration", "test"):
        for label in ("dark", "light"):
            (folder / part / label).mkdir(parents=True)
            for index in range(3):
                level = rng.integers(0, 128, size=(32, 32, 3), dtype=np.uint8) + (128 if label == "light" else 0)
                Image.fromarray(level.astype(np.uint8)).save(folder / part / label / f"{index}.png")


def fault_check(work: Path, kills: int, seed: int) -> Counter[str]:
    """Kills the command ``kills`` times: three of five at an operation, the others at a random moment."""
    harness, rng = Harness(work), random.Random(seed)
    (work / "out").mkdir()
    runs = [Run(number, precision) for number in range(3) for precision in ("int8", "fp32")]
    cold, _ = harness.finish(runs[0])
    for run in runs[1:]:
        harness.finish(run)
    warm, seconds = harness.finish(runs[0])
    print(f"a run makes {cold} operations on files with an empty cache, {warm} in {seconds:.1f} s with a full one")
    at_operations = max(1, kills * 3 // 5)
    for index in range(at_operations):
        # Every third run has weights of its own, so that each stage's writing is met as well as its reading.
        run, total = (Run(1000 + index, "int8"), cold) if index % 3 == 0 else (runs[index % len(runs)], warm)
        harness.kill(run, before=1 + index * (total - 1) // at_operations)
        print(f"\r{harness.kills} of {kills}", end="", flush=True)
    index = 0
    while harness.kills < kills:
        index += 1
        stop = STOPS[index % len(STOPS)]
        harness.kill(runs[index % len(runs)], after_s=rng.uniform(0.02, seconds), stop=stop)
        print(f"\r{harness.kills} of {kills}", end="", flush=True)
    harness.finish(runs[-1])
    Bundle.read(harness.output)
    left = sorted(path.name for path in (work / "out").iterdir())
    assert left == ["bundle"], f"the kills left {left}"
    return harness.counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200, help="of single builds")
    parser.add_argument("--sweep-kills", type=int, default=50, help="of sweeps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    # nohup and many CI runners ignore it, and the forked commands would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in PRELOAD if options.kills else ():
        importlib.import_module(name)
    checks = ((options.kills, fault_check, "builds"), (options.sweep_kills, sweep_check, "sweeps"))
    for kills, check, what in checks:
        if not kills:
            continue
        started = time.monotonic()
        # A socket's path has room for a short name only.
        with tempfile.TemporaryDirectory(prefix="rf", dir="/tmp") as folder:
            write_images(Path(folder, "data"))
            counts = check(Path(folder), kills, options.seed)
        print(f"\n{kills} kills of {what} in {time.monotonic() - started:.0f} s, no promise broken:")
        for line, count in sorted(counts.items()):
            print(f"  {count:6d}  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
