"""Whatever ends a build, and whenever: afterwards the old bundle is there or the new one, whole."""

from __future__ import annotations

import concurrent.futures
import errno
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from radixrt.engines.bundle import atomic, folder
from radixrt.engines.bundle.folder import BundleWriter
from radixrt.errors import InputError
from tests.engines.bundle import fault_children as children

RANDOM_KILLS = 60

# Children start from a process with one thread that has loaded what they need: in milliseconds, with no lock held.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["pytest", "tests.engines.bundle.warm_children"])


@pytest.fixture
def memory_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the machine has one: what a kill leaves there is what it leaves on a slow disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="radixrt-faults-", dir=memory) as name:
        yield Path(name)


def start_writing(output: Path, first: int, log: Path, exchange: bool) -> BaseProcess:
    here, there = processes.Pipe()
    arguments = (output, first, log, exchange, there)
    child = processes.Process(target=children.write_forever, args=arguments, daemon=True)
    child.start()
    assert here.recv() == "starting"
    return child


def seconds_of_a_first_generation(output: Path, log: Path) -> tuple[float, int]:
    """How long a child takes to its first generation, and the last one that it wrote."""
    child = start_writing(output, 1, log, exchange=True)
    started = time.monotonic()
    while not log.read_text():
        time.sleep(0.0005)
    seconds = time.monotonic() - started
    child.kill()
    child.join()
    return seconds, children.read_generation(output)


def test_kills_at_random_moments_leave_one_whole_bundle(memory_disk: Path) -> None:
    output, log = memory_disk / "bundle", memory_disk / "log"
    children.write_generation(output, 0)
    seconds, last = seconds_of_a_first_generation(output, log)
    rng = random.Random(7)
    for round_number in range(RANDOM_KILLS):
        child = start_writing(output, last + 1, log, exchange=round_number % 2 == 0)
        # Between none and a few generations, however busy this machine is.
        time.sleep(min(rng.uniform(0, 2.5 * seconds), 3))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        finished = [last, *(int(line) for line in log.read_text().split())]
        found = children.read_generation(output)
        # What was reported as finished is there; the one after it may be, when the kill fell between swap and report.
        assert found in (max(finished), max(finished) + 1)
        last = found
    assert last > RANDOM_KILLS / 8, "the kills fell before anything was written: this test has seen nothing"
    children.write_generation(output, last + 1)
    assert sorted(path.name for path in memory_disk.iterdir()) == ["bundle", "log"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_before_each_step_leaves_one_whole_bundle(memory_disk: Path, exchange: bool) -> None:
    output = memory_disk / "bundle"
    children.write_generation(output, 0)
    generation, kills, old_kept = 0, 0, 0
    for step in range(1, 1000):
        child = processes.Process(target=children.write_until_step, args=(output, step, step, exchange))
        child.start()
        child.join()
        found = children.read_generation(output)
        assert found in (generation, step)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        old_kept += found == generation
        generation = found
    assert kills > 20
    assert 0 < old_kept < kills
    assert [path.name for path in memory_disk.iterdir()] == ["bundle"]


@pytest.mark.parametrize("exchange", [True, False])
def test_readers_meet_whole_bundles_only_while_builds_finish(memory_disk: Path, exchange: bool) -> None:
    output, log = memory_disk / "bundle", memory_disk / "log"
    children.write_generation(output, 0)
    child = start_writing(output, 1, log, exchange)
    seen = [0]
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline or len(set(seen)) < 5:
        seen.append(children.read_generation(output))
    child.kill()
    child.join()
    assert seen == sorted(seen)


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_reader_whose_looks_all_fall_into_gaps_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    # Each look at the manifest meets another build's gap, and the folder is back before the reader asks why.
    output = tmp_path / "bundle"
    children.write_generation(output, 3)
    look, missed = folder._try_manifest, iter(range(looks))
    monkeypatch.setattr(folder, "_try_manifest", lambda path: None if next(missed, None) is not None else look(path))
    assert children.read_generation(output) == 3


def test_a_reader_waits_for_a_writer_between_its_two_renames(tmp_path: Path) -> None:
    output, aside = tmp_path / "bundle", tmp_path / "aside"
    children.write_generation(output, 3)
    with atomic.exclusive(output), concurrent.futures.ThreadPoolExecutor(1) as thread:
        output.rename(aside)
        reading = thread.submit(children.read_generation, output)
        with pytest.raises(concurrent.futures.TimeoutError):
            reading.result(0.05)
        aside.rename(output)
        assert reading.result() == 3
    with atomic.exclusive(output):
        output.rename(aside)
        with pytest.raises(InputError, match="is not there yet: open it again when the build that writes it is done"):
            children.read_generation(output)
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        children.read_generation(output)


def test_a_writer_waits_for_a_reader_that_looks(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        with atomic.exclusive(output, reader=True):
            writing = thread.submit(children.write_generation, output, 1)
            with pytest.raises(concurrent.futures.TimeoutError):
                writing.result(0.05)
        writing.result()
    assert children.read_generation(output) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_build_tidies_up(tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "bundle"
    children.write_generation(output, 0)
    here, there = processes.Pipe()
    child = processes.Process(target=children.write_slowly, args=(output, there))
    child.start()
    assert here.recv() == "in the middle"
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode not in (0, -number)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert children.read_generation(output) == 0


def test_a_second_builder_is_refused_and_named(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    with BundleWriter(output):
        with pytest.raises(InputError, match=rf"is being written by process {os.getpid()}: wait"):
            children.write_generation(output, 1)
        assert not output.exists()
    children.write_generation(output, 2)
    assert children.read_generation(output) == 2


def test_many_builders_at_once_never_share_the_lock(tmp_path: Path) -> None:
    # The lock's file is removed by its holder, which is where such locks go wrong.
    output, inside, worst = tmp_path / "bundle", [], []

    def build() -> None:
        for _ in range(15):
            while not built():
                time.sleep(0.001)

    def built() -> bool:
        try:
            with BundleWriter(output):
                inside.append(1)
                worst.append(len(inside))
                inside.pop()
        except InputError as error:
            assert "is being written by" in str(error)
            return False
        return True

    threads = [threading.Thread(target=build) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 90
    assert max(worst) == 1


def test_a_full_disk_is_one_sentence_and_the_old_bundle(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    children.write_generation(output, 0)
    with pytest.raises(InputError, match="no space left on device"), BundleWriter(output) as writer:
        Path("/dev/full").write_bytes(b"x" * 10_000_000)
        assert writer
    assert children.read_generation(output) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_disk_that_fills_up_while_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Disks that allocate late report it at fsync.
    output = tmp_path / "bundle"
    children.write_generation(output, 0)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="no space left on device"):
        children.write_generation(output, 1)
    monkeypatch.undo()
    assert children.read_generation(output) == 0


def test_everything_is_flushed_before_it_takes_the_old_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a power cut may lose is what was not flushed: every file, its folder, and after the swap the folder above.
    flushed: list[str] = []
    real_fsync, real_exchange = os.fsync, atomic.exchange

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_fsync(descriptor)

    def exchange(first: Path, second: Path) -> bool:
        flushed.append("SWAP")
        return real_exchange(first, second)

    children.write_generation(tmp_path / "bundle", 0)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(atomic, "exchange", exchange)
    children.write_generation(tmp_path / "bundle", 1)
    swap = flushed.index("SWAP")
    before = flushed[:swap]
    assert {"engine.onnx", "deploy.onnx", "manifest.json", "run.py", "pixels.py"} <= set(before)
    assert before[-1].startswith(".bundle.tmp-")
    assert flushed[swap + 1 :] == [tmp_path.name]
