"""Protects the timings of a sweep: one that measures has its machine for itself, and a dead one lets go."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from radixrt.engines.quiet import Machine, alone, away


class Diary:
    """What several threads did, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def work(self, folder: Path, name: str, ready: threading.Event, *, times: bool) -> None:
        machine = Machine(folder)
        with machine.working():
            self.lines.append(f"{name} works")
            ready.set()
            time.sleep(0.05)
            if times:
                with alone():
                    self.lines.append(f"{name} times")
                    time.sleep(0.05)
                    self.lines.append(f"{name} timed")
            else:
                time.sleep(0.2)
                self.lines.append(f"{name} is over")
        machine.close()


def test_a_timing_begins_when_the_work_beside_it_is_over_and_nobody_works_until_it_ends(tmp_path: Path) -> None:
    diary, threads = Diary(), []
    for name, times in (("a", True), ("b", False), ("c", True)):
        ready = threading.Event()
        threads.append(threading.Thread(target=diary.work, args=(tmp_path, name, ready), kwargs={"times": times}))
        threads[-1].start()
        ready.wait(5)
    for thread in threads:
        thread.join(20)
    lines = diary.lines
    assert lines[:3] == ["a works", "b works", "c works"], "builds are side by side"
    assert lines[3] == "b is over", "no timing beside a build"
    for name in "ac":
        assert lines[lines.index(f"{name} times") + 1] == f"{name} timed", "no timing beside another"


def test_whoever_waits_for_a_timing_keeps_new_work_out(tmp_path: Path) -> None:
    first, second, late = Machine(tmp_path), Machine(tmp_path), Machine(tmp_path)
    order: list[str] = []

    def timing() -> None:
        with second.working(), second.alone():
            order.append("timing")

    def working() -> None:
        with late.working():
            order.append("work")

    with first.working():
        waiter = threading.Thread(target=timing)
        waiter.start()
        time.sleep(0.1)
        newcomer = threading.Thread(target=working)
        newcomer.start()
        time.sleep(0.1)
        assert order == []
    waiter.join(5)
    newcomer.join(5)
    assert order == ["timing", "work"] and second.waited_s > 0.1


def test_a_timing_need_not_wait_for_the_end_of_long_work(tmp_path: Path) -> None:
    busy, timing = Machine(tmp_path), Machine(tmp_path)
    order: list[str] = []

    def once() -> None:
        with timing.working(), timing.alone():
            order.append("timing")
            time.sleep(0.05)
            order.append("timed")

    with busy.working():
        busy.give_way()
        assert busy.waited_s < 0.05, "nobody waits"
        waiter = threading.Thread(target=once)
        waiter.start()
        for _ in range(500):
            time.sleep(0.01)
            busy.give_way()
            order.append("step")
            if "timed" in order:
                break
        assert order[order.index("timing") + 1] == "timed", "no step beside the timing"
        with busy.alone():
            busy.give_way()
    waiter.join(5)


def test_a_wait_for_somebody_elses_work_holds_no_timing_up(tmp_path: Path) -> None:
    waiting, timing = Machine(tmp_path), Machine(tmp_path)
    with waiting.working(), away():
        done = threading.Thread(target=lambda: timing.alone().__enter__())
        done.start()
        done.join(5)
        assert not done.is_alive()
        os.close(timing._work)


def test_without_a_shared_machine_there_is_nothing_to_wait_for() -> None:
    with alone(), away(), alone():
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child")
def test_a_killed_process_lets_the_machine_go(tmp_path: Path) -> None:
    here, there = os.pipe()
    child = os.fork()
    if not child:
        machine = Machine(tmp_path)
        with machine.working(), machine.alone():
            os.write(there, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(here, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    machine = Machine(tmp_path)
    with machine.working(), machine.alone():
        pass
