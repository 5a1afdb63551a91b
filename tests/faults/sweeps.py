"""``make fault-check``: kills ``radixrt sweep`` at random moments, goes on with the same command, and looks around.

Three of five kills are SIGKILL for the command and its process group; one is Ctrl-C; one hits a single worker, and the
command must end by itself. After each kill every row that was finished is as it was, byte for byte, every record has
its whole bundle. When a sweep is done, the next one begins in an empty folder; at the end the
folder holds its rows and nothing else, the temporary folder nothing at all, and no process is left.

The command is the real one in processes of its own, with its own Ray; the rows are networks of a few thousand
parameters, whose weights differ, on images of 32x32.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from onnx import numpy_helper

from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.cache.results import StageCache
from radixrt.fleet.schema import Sweep, SweepRow
from tests.cli_runner import COMMAND
from tests.engines.bundle.bundles import tiny_network

ROWS = 6
LONGEST_S = 1800.0
LOOKS = 1800
"""How often it is looked, ten times a second, whether the processes of a killed command are gone."""
FILES = {"index.html", "junit.xml", "rows", "sweep.csv", "sweep.json"}


def write_recipe(work: Path, rows: int, **options: object) -> Path:
    """Writes small networks whose weights differ, and the recipe of a sweep over them; ``work/data`` is there."""
    for number in range(rows):
        path = work / f"net{number}.onnx"
        tiny_network(path, "batch")
        model = onnx.load(path)
        weight = model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + number, weight.name))
        onnx.save(model, path)
    told = {"data": "data", "precision": "fp32", "target": "onnxruntime", "latency_rounds": 2, "threads": 1, **options}
    lines = [f"model = [{', '.join(repr(f'net{number}.onnx') for number in range(rows))}]"]
    lines += [f"{name} = {value!r}" for name, value in told.items()]
    lines += ["[preprocess]", "input_size = [3, 32, 32]", "mean = [0.5]", "std = [0.25]"]
    recipe = work / "recipe.toml"
    recipe.write_text("\n".join(lines) + "\n")
    return recipe


@dataclass
class SweepHarness:
    """Starts sweeps, kills and checks. ``seconds`` is the latest moment of a kill, about what a sweep takes."""

    work: Path
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    kept: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 20.0
    finished: int = 0

    @property
    def output(self) -> Path:
        return self.work / "out" / f"sweep{self.finished}"

    @property
    def jobs(self) -> str:
        """One worker in every other sweep, two in the others."""
        return str(1 + self.finished % 2)

    @property
    def environment(self) -> dict[str, str]:
        # Ray kills too, where somebody else's processes have filled the memory: those kills are not counted here.
        ours = {
            "XDG_CACHE_HOME": f"{self.work}/cache",
            "TMPDIR": f"{self.work}/t",
            "RAY_memory_monitor_refresh_ms": "0",
        }
        return {**os.environ, **ours}

    def start(self) -> subprocess.Popen[bytes]:
        """The same command each time; it leads a process group, as one that a shell started does."""
        with (self.work / "log").open("ab") as log:
            return subprocess.Popen(
                [*COMMAND, "sweep", "recipe.toml", "--output", self.output, "--jobs", self.jobs],
                cwd=self.work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> bool:
        """Starts the command, kills at a random moment, and checks; says whether the kill hit."""
        started = time.monotonic()
        process = self.start()
        how = self.rng.choice(["group", "group", "group", "interrupt", "worker"])
        time.sleep(self.rng.uniform(0.2, self.seconds))
        hit = process.poll() is None
        if hit and how == "worker":
            hit = self._kill_worker()
        elif hit:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL if how == "group" else signal.SIGINT)
        code = process.wait(LONGEST_S)
        # Python itself ends by the signal where it comes before the command has begun.
        stopped = {130, -signal.SIGINT}
        allowed = {"group": {-signal.SIGKILL}, "interrupt": stopped, "worker": {0}}[how] if hit else {0}
        # What was hit may have been over in the same moment.
        if code not in allowed | {0}:
            raise AssertionError(f"the command ended with {code} after a kill ({how}):\n{self.log_end()}")
        hit = hit and (how == "worker" or code != 0)
        self.counts[f"{how} killed" if hit else "finished first"] += 1
        self.check()
        if code == 0:
            self.check_done()
            if not hit:
                self.seconds = max(5.0, 0.5 * (self.seconds + time.monotonic() - started))
            self.finished, self.kept = self.finished + 1, {}
        return hit

    def _kill_worker(self) -> bool:
        """Kills one process that builds a row, or is about to."""
        workers = [pid for pid, words in self.processes() if words.startswith(b"ray::") and b"Agent" not in words]
        if not workers:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.rng.choice(workers), signal.SIGKILL)
        return True

    def processes(self) -> Iterator[tuple[int, bytes]]:
        """Everything that runs for a sweep of this harness, with its command line."""
        mark = f"TMPDIR={self.work}/t".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    yield int(folder.name), (folder / "cmdline").read_bytes()

    def check(self) -> None:
        """The promise, after one kill.

        Raises:
            AssertionError: a finished row is gone or was made again, or a record has no whole bundle.
            InputError: a bundle is not whole.
        """
        found = {}
        for path in sorted((self.output / "rows").glob("*.json")):
            row = SweepRow.model_validate_json(path.read_bytes())
            assert row.state == "done", f"{row.name}: {row.reason}"
            found[row.name] = path.read_bytes() + Bundle.read(self.output / row.name).manifest_bytes
        for name, before in self.kept.items():
            assert found.get(name) == before, f"the finished row {name} {'changed' if name in found else 'is lost'}"
        self.counts["finished rows found as they were"] += len(self.kept)
        if (self.output / "sweep.json").exists():
            Sweep.read(self.output)
        self.kept = found
        root = self.work / "cache" / "radixrt" / "stages"
        if root.exists():
            with StageCache(root) as cache:
                entries = cache.entries()
                assert all(cache.get(entry.key) is not None for entry in entries), "the cache believes what is damaged"

    def check_processes(self) -> None:
        """No process is left a while after the last command: Ray's helpers may need a minute to see that it died."""
        for _ in range(LOOKS):
            if not (left := [words.replace(b"\0", b" ") for _, words in self.processes()]):
                break
            time.sleep(0.1)
        else:
            raise AssertionError(f"processes outlive the command: {left}")

    def check_done(self) -> None:
        """The end state: every row, and nothing that a kill left."""
        told = Sweep.read(self.output)
        assert told.passed and len(told.rows) == ROWS == len(self.kept)
        for row in told.rows:
            vouched = SweepRow.model_validate_json((self.output / "rows" / f"{row.name}.json").read_bytes())
            assert row == vouched, f"sweep.json tells another {row.name} than its record"
        left = {path.name for path in self.output.iterdir()} - FILES - {row.name for row in told.rows}
        left |= {path.name for path in (self.output / "rows").iterdir() if path.suffix != ".json"}
        left |= {path.name for path in (self.work / "t").glob("*/*-*")}
        left |= {path.name for path in (self.work / "t").glob("radixrt-*") if path.name != f"radixrt-{os.getuid()}"}
        assert not left, f"the kills left {left}"

    def log_end(self) -> str:
        return "\n".join((self.work / "log").read_text(errors="replace").splitlines()[-15:])


def sweep_check(work: Path, kills: int, seed: int) -> Counter[str]:
    """Kills sweeps ``kills`` times, and runs the last one to its end; ``work/data`` is there."""
    (work / "t").mkdir()
    (work / "out").mkdir()
    write_recipe(work, ROWS)
    harness = SweepHarness(work, random.Random(seed))
    done = 0
    while done < kills:
        done += harness.kill()
        print(f"\r{done} of {kills}", end="", flush=True)
    process = harness.start()
    if process.wait(LONGEST_S) != 0:
        raise AssertionError(f"the command failed by itself:\n{harness.log_end()}")
    harness.check()
    harness.check_done()
    harness.check_processes()
    harness.counts["sweeps finished"] = harness.finished + 1
    return harness.counts
