"""Timing against a clock that only moves when told to: what is counted, in which order, and what is warned of."""

from __future__ import annotations

import subprocess
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest

from radixrt.errors import InputError
from radixrt.export.feed import length
from radixrt.validate.gates import GateLimits, judge_gates
from radixrt.validate.measure.latency import FLOAT32, LatencyOptions, in_float32, measure, seen_from
from radixrt.validate.measure.machine import readings, warnings
from radixrt.validate.measure.machine_state import CpuTime, MachineState, read_machine
from radixrt.validate.measure.rounds import Clock
from radixrt.validate.report.rows import steadiness
from radixrt.validate.schema import Latency
from tests.validate.reports import FakeClock

IMAGES = {"input": np.zeros((8, 3, 4, 4), np.float32)}


def test_times_percentiles_and_ratio_are_those_of_the_clock() -> None:
    fake = FakeClock()
    found = measure(
        {"engine": lambda x: fake.advance(0.002 * length(x)), "pytorch": lambda x: fake.advance(0.006 * len(x))},
        IMAGES,
        LatencyOptions(batches=(4, 1), rounds=30),
        clock=fake.clock(),
    )
    assert [(r.name, r.batch) for r in found.rows] == [("engine", 1), ("engine", 4), ("pytorch", 1), ("pytorch", 4)]
    engine = found.rows[0]
    assert (engine.p50_ms, engine.p99_ms) == (pytest.approx(2.0), pytest.approx(2.0))
    assert found.rows[1].p50_ms == pytest.approx(8.0)
    assert found.rows[1].images_per_s == pytest.approx(500.0)
    assert found.speedup_p50 == pytest.approx(3.0)
    assert found.speedup_ci95 == (pytest.approx(3.0), pytest.approx(3.0)) and found.unsteady == []
    assert len(engine.samples_ms) == found.method.rounds == 30
    assert found.method.warnings == []


# A race is measured once and told from each engine's side: only the order and the ratio may change.
def test_a_run_can_be_told_of_another_runner() -> None:
    fake = FakeClock()
    runners = {
        "slow": lambda x: fake.advance(0.004 * length(x)),
        "quick": lambda x: fake.advance(0.002 * length(x)),
        in_float32("slow"): lambda x: fake.advance(0.007 * length(x)),
        in_float32("quick"): lambda x: fake.advance(0.003 * length(x)),
        "pytorch": lambda x: fake.advance(0.006 * length(x)),
    }
    found = measure(runners, IMAGES, LatencyOptions(batches=(1, 4), rounds=10), clock=fake.clock())
    told = seen_from(found, "quick")
    assert [(r.name, r.batch) for r in told.rows[:5]] == [
        ("engine", 1), ("engine", 4), (FLOAT32, 1), (FLOAT32, 4), ("slow", 1),
    ]  # fmt: skip
    assert told.rows[2].p50_ms == pytest.approx(3.0) and told.rows[-1].name == "pytorch"
    assert (found.speedup_p50, told.speedup_p50) == (pytest.approx(1.5), pytest.approx(3.0))
    assert sorted(r.p50_ms for r in told.rows) == sorted(r.p50_ms for r in found.rows)
    with pytest.raises(InputError, match="slow"):
        seen_from(found, "quickest")


def test_percentiles_see_the_tail() -> None:
    fake, calls = FakeClock(), iter(range(10_000))
    found = measure(
        {
            "engine": lambda _: fake.advance(0.010 if next(calls) % 10 == 9 else 0.001),
            "b": lambda _: fake.advance(1e-3),
        },
        IMAGES,
        LatencyOptions(rounds=100, warmup_seconds=0.01, seconds=1e9),
        clock=fake.clock(),
    )
    row = found.rows[0]
    assert row.p50_ms == pytest.approx(1.0)
    assert row.p95_ms == pytest.approx(10.0)


def test_rounds_are_interleaved_and_the_first_place_rotates() -> None:
    fake, order = FakeClock(), []

    def runner(name: str):  # type: ignore[no-untyped-def]
        def run(_: object) -> None:
            order.append(name)
            fake.advance(0.001)

        return run

    measure(
        {"a": runner("a"), "b": runner("b"), "base": runner("base")},
        IMAGES,
        LatencyOptions(rounds=12, settle_s=0, timed_s=0),
        clock=fake.clock(),
    )
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert all(sorted(r) == ["a", "b", "base"] for r in rounds), "everybody runs once in each round"
    assert {r[0] for r in rounds} == {"a", "b", "base"}


class Neighbours:
    """Runners that take twice as long in their first three runs behind another one, as real ones do."""

    def __init__(self, fake: FakeClock) -> None:
        self.fake, self.last, self.row = fake, "", 0

    def run(self, name: str, seconds: float) -> None:
        self.last, self.row = name, self.row + 1 if self.last == name else 0
        self.fake.advance(seconds * (2 if self.row < 3 else 1))


# A 20 ms rest before each run made small engines look two to four times as slow as a user finds them.
def test_runs_in_a_row_are_timed_once_they_have_settled() -> None:
    fake = FakeClock()
    both = Neighbours(fake)
    found = measure(
        {"engine": lambda _: both.run("engine", 0.001), "b": lambda _: both.run("b", 0.002)},
        IMAGES,
        LatencyOptions(rounds=10),
        clock=fake.clock(),
    )
    engine, b = found.rows
    assert (engine.p50_ms, engine.p99_ms, b.p99_ms) == (pytest.approx(1.0), pytest.approx(1.0), pytest.approx(2.0))
    assert len(engine.samples_ms) == 10, "one for each round: the rounds are what is drawn for the interval"


def test_a_slow_run_settles_once_and_counts_once_in_a_round() -> None:
    fake, calls = FakeClock(), iter(range(100))
    found = measure(
        {"engine": lambda _: fake.advance(0.2 + 0.0 * next(calls))},
        IMAGES,
        LatencyOptions(rounds=10),
        clock=fake.clock(),
    )
    assert next(calls) == 2 * (10 + found.method.warmup_rounds)


def test_warm_up_ends_when_times_are_steady() -> None:
    fake, calls = FakeClock(), iter(range(10_000))
    found = measure(
        # Twenty slow runs, each faster than the last, before it settles at one millisecond.
        {
            "engine": lambda _: fake.advance(0.001 * max(1.0, 8.0 - 0.35 * next(calls))),
            "b": lambda _: fake.advance(1e-3),
        },
        IMAGES,
        LatencyOptions(rounds=30, settle_s=0, timed_s=0),
        clock=fake.clock(),
    )
    assert found.method.warmup_rounds >= 20
    assert max(found.rows[0].samples_ms) == pytest.approx(1.0)


def test_never_steady_is_said_and_does_not_last_for_ever() -> None:
    fake, calls = FakeClock(), iter(range(100_000))
    found = measure(
        {"engine": lambda _: fake.advance(0.001 * 1.01 ** next(calls)), "b": lambda _: fake.advance(0.001)},
        IMAGES,
        LatencyOptions(rounds=10, warmup_seconds=0.5),
        clock=fake.clock(),
    )
    assert any("batch 1 still moved" in warning for warning in found.method.warnings)


def test_a_slow_network_stops_at_its_time_but_keeps_enough_rounds() -> None:
    fake = FakeClock()
    found = measure(
        {"engine": lambda _: fake.advance(2.0), "b": lambda _: fake.advance(2.0)},
        IMAGES,
        LatencyOptions(rounds=500, seconds=10, min_rounds=10),
        clock=fake.clock(),
    )
    assert found.method.rounds == 10


def test_a_baseline_with_two_speeds_widens_the_interval() -> None:
    fake, calls = FakeClock(), iter(range(100_000))
    found = measure(
        {"engine": lambda _: fake.advance(0.001), "b": lambda _: fake.advance((0.001, 0.002)[next(calls) % 2])},
        IMAGES,
        LatencyOptions(rounds=20, warmup_seconds=0.05, settle_s=0, timed_s=0),
        clock=fake.clock(),
    )
    low, high = found.speedup_ci95
    assert low < 1.1 and high > 1.9
    assert "anywhere from" in found.unsteady[0], "nobody can say how much faster: that is no verdict"


# What slows both alike cancels out of the ratio: the interval is that of the pairs, not of the times.
def test_a_slow_stretch_that_hits_both_does_not_widen_the_interval() -> None:
    fake, calls = FakeClock(), iter(range(100_000))

    def slow() -> float:
        return 3.0 if (next(calls) // 20) % 2 else 1.0

    found = measure(
        {"engine": lambda _: fake.advance(0.001 * slow()), "b": lambda _: fake.advance(0.002 * slow())},
        IMAGES,
        LatencyOptions(rounds=41, warmup_seconds=0.05, settle_s=0, timed_s=0),
        clock=fake.clock(),
    )
    assert max(found.rows[0].samples_ms) > 2.5 * min(found.rows[0].samples_ms)
    assert found.speedup_ci95[0] > 0.6 and found.speedup_p50 == pytest.approx(2.0, rel=0.05)


class Busy:
    """A machine whose other processes keep cores busy in the given stretches of rounds."""

    def __init__(self, fake: FakeClock, cores: dict[int, float], otherwise: float = 0.0) -> None:
        self.fake, self.cores, self.otherwise = fake, cores, otherwise
        self.looks, self.spent, self.seen = 0, 0.0, 0.0

    def __call__(self) -> CpuTime:
        # Looks come in pairs: before a stretch and after it.
        if self.looks % 2:
            self.spent += (self.fake.seconds - self.seen) * self.cores.get(self.looks // 2, self.otherwise)
        self.seen = self.fake.seconds
        self.looks += 1
        return CpuTime(clock=self.fake.seconds, own=0.0, all=self.spent)


def timed_beside(cores: dict[int, float], otherwise: float = 0.0, rounds: int = 30) -> Latency:
    fake = FakeClock()
    busy = Busy(fake, cores, otherwise)
    clock = Clock(now=lambda: fake.seconds, machine=lambda: fake.machine, cpu=busy)

    def run(seconds: float) -> None:
        fake.advance(seconds * (4.0 if cores.get(busy.looks // 2, otherwise) else 1.0))

    runners = {"engine": lambda _: run(0.010), "pytorch": lambda _: run(0.030)}
    return measure(runners, IMAGES, LatencyOptions(rounds=rounds, warmup_seconds=0.2), clock=clock)


def test_a_stretch_that_other_work_disturbed_is_taken_again() -> None:
    found = timed_beside({1: 1.9})
    assert found.method.repeated_rounds > 0 and found.method.rounds == 30 and found.unsteady == []
    assert max(found.rows[0].samples_ms) == pytest.approx(10.0), "no disturbed time is among those that count"
    assert "taken again" in steadiness(found)


# The same engine was called 14 and 46 times as fast as its network beside two busy loops, each time "+- 2 %".
def test_times_of_a_machine_that_does_not_calm_down_are_not_steady() -> None:
    found = timed_beside({}, otherwise=1.9)
    assert found.unsteady == ["other processes kept 1.9 of 4 cores busy while batch 1 was timed"]
    assert found.method.rounds == 30 and found.method.others_cores == pytest.approx(1.9)
    asked = GateLimits(max_p95_ms=1000, min_speedup=1.1)
    gates = {gate.name: gate for gate in judge_gates(asked, latency=found)}
    for name in ("max_p95_ms", "min_speedup"):
        assert gates[name].value is None and gates[name].passed and "not steady" in gates[name].reason
    strict = judge_gates(replace(asked, strict=True), latency=found)
    assert {gate.name for gate in strict if not gate.passed} == {"max_p95_ms", "min_speedup"}


def test_a_gpu_is_read_where_its_library_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library itself needs a GPU: here its documented calls are imitated, one of which this board lacks.
    class NVMLError(Exception):
        pass

    def refuse(_: object) -> int:
        raise NVMLError("not supported")

    library = types.SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2, NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None, nvmlShutdown=lambda: None, nvmlDeviceGetHandleByIndex=lambda _: object(),
        nvmlDeviceGetClockInfo=lambda _, kind: {1: 1980, 2: 2619}[kind],
        nvmlDeviceGetTemperature=lambda _, __: 41, nvmlDeviceGetPowerUsage=refuse,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", library)
    numbers = read_machine().numbers
    assert numbers["GPU clock (MHz)"] == 1980 and numbers["GPU temperature (°C)"] == 41
    assert "GPU power (W)" not in numbers, "what the board does not tell is left out"


def test_misuse_is_refused() -> None:
    with pytest.raises(InputError, match="no runner is named"):
        measure({"a": lambda _: None}, IMAGES, LatencyOptions(baseline="pytorch"))
    with pytest.raises(InputError, match="at least 16 samples"):
        measure({"a": lambda _: None}, IMAGES, LatencyOptions(batches=(16,)))
    with pytest.raises(InputError, match="no runner"):
        measure({}, IMAGES)


def test_the_report_warns_when_the_machine_moved() -> None:
    states = iter(
        [
            MachineState(
                0.2,
                4,
                {"GPU clock (MHz)": 1500, "GPU temperature (°C)": 50},
                {"CPU governor": "performance"},
                CpuTime(clock=100, own=50, all=200),
            ),
            MachineState(
                9.0,
                4,
                {"GPU clock (MHz)": 900, "GPU temperature (°C)": 80},
                {"CPU governor": "powersave"},
                CpuTime(clock=110, own=70, all=240),
            ),
        ]
    )
    fake = FakeClock()
    clock = Clock(now=lambda: fake.seconds, machine=lambda: next(states), cpu=lambda: None)
    found = measure({"engine": lambda _: fake.advance(0.001)}, IMAGES, LatencyOptions(rounds=10), clock=clock)
    text = " ".join(found.method.warnings)
    for word in ("GPU clock", "GPU temperature", "governor changed", "kept 2.0 of 4 cores busy"):
        assert word in text
    assert (found.method.load_before, found.method.load_after) == (0.2, 9.0)
    assert found.method.machine[0].name == "load average"


# A build keeps every core busy until the moment its engine is timed: that is no work of others.
def test_a_calm_machine_gives_no_warning_whatever_its_load_and_a_busy_one_does() -> None:
    def look(clock: float, own: float, total: float) -> MachineState:
        return MachineState(6.0, 4, {}, {"CPU governor": "performance"}, CpuTime(clock, own, total))

    assert warnings(look(0, 1000, 1000), look(10, 1039, 1042)) == []
    assert "kept 0.5 of 4 cores busy" in warnings(look(0, 1000, 1000), look(10, 1039, 1044))[0]
    unknown = MachineState(6.0, 4)
    assert warnings(unknown, unknown) == []
    assert readings(look(0, 0, 0), look(1, 0, 0))[1].before == "performance"


def test_another_process_counts_as_other_work() -> None:
    before = read_machine().cpu
    if before is None:
        pytest.skip("this system does not tell how busy its cores are")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        time.sleep(1.0)
        after = read_machine().cpu
        spinning.kill()
    assert after is not None and after.others_since(before) > 0.4


def test_this_machine_can_be_read() -> None:
    state = read_machine()
    assert state.cores >= 1 and state.load >= 0
