"""Timing against a clock that only moves when told to: what is counted, in which order, and what is warned of."""

from __future__ import annotations

import subprocess
import sys
import time
import types

import numpy as np
import pytest

from radixrt.errors import InputError
from radixrt.validate.measure.latency import FLOAT32, Clock, LatencyOptions, in_float32, measure, seen_from
from radixrt.validate.measure.machine import CpuTime, MachineState, read_machine, readings, warnings
from tests.validate.reports import FakeClock

IMAGES = np.zeros((8, 3, 4, 4), np.float32)


def test_times_percentiles_and_ratio_are_those_of_the_clock() -> None:
    fake = FakeClock()
    found = measure(
        {"engine": lambda x: fake.advance(0.002 * len(x)), "pytorch": lambda x: fake.advance(0.006 * len(x))},
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
    assert found.method.noise == pytest.approx(1.0)
    assert len(engine.samples_ms) == found.method.rounds == 30
    assert found.method.warnings == []


# A race is measured once and told from each engine's side: only the order and the ratio may change.
def test_a_run_can_be_told_of_another_runner() -> None:
    fake = FakeClock()
    runners = {
        "slow": lambda x: fake.advance(0.004 * len(x)),
        "quick": lambda x: fake.advance(0.002 * len(x)),
        in_float32("slow"): lambda x: fake.advance(0.007 * len(x)),
        in_float32("quick"): lambda x: fake.advance(0.003 * len(x)),
        "pytorch": lambda x: fake.advance(0.006 * len(x)),
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
        LatencyOptions(rounds=12),
        clock=fake.clock(),
    )
    rounds = [order[i : i + 4] for i in range(0, len(order), 4)]
    assert all(sorted(r) == ["a", "b", "base", "base"] for r in rounds), "the baseline runs twice in each round"
    assert {r[0] for r in rounds} == {"a", "b", "base"}


def test_rest_between_runs_is_not_timed() -> None:
    fake = FakeClock()
    found = measure(
        {"engine": lambda _: fake.advance(0.001), "b": lambda _: fake.advance(0.001)},
        IMAGES,
        LatencyOptions(rounds=10, pause_s=0.5, seconds=1e9, warmup_seconds=1e9),
        clock=fake.clock(),
    )
    assert found.rows[0].p99_ms == pytest.approx(1.0)


def test_warm_up_ends_when_times_are_steady() -> None:
    fake, calls = FakeClock(), iter(range(10_000))
    found = measure(
        # Twenty slow runs, each faster than the last, before it settles at one millisecond.
        {
            "engine": lambda _: fake.advance(0.001 * max(1.0, 8.0 - 0.35 * next(calls))),
            "b": lambda _: fake.advance(1e-3),
        },
        IMAGES,
        LatencyOptions(rounds=30),
        clock=fake.clock(),
    )
    assert found.method.warmup_rounds >= 20
    assert max(found.rows[0].samples_ms) == pytest.approx(1.0)


def test_never_steady_is_said_and_does_not_last_for_ever() -> None:
    fake, calls = FakeClock(), iter(range(100_000))
    found = measure(
        {"engine": lambda _: fake.advance(0.001 * 1.1 ** next(calls)), "b": lambda _: fake.advance(0.001)},
        IMAGES,
        LatencyOptions(rounds=10, warmup_seconds=0.5),
        clock=fake.clock(),
    )
    assert any("batch 1 were not steady" in warning for warning in found.method.warnings)


def test_a_slow_network_stops_at_its_time_but_keeps_enough_rounds() -> None:
    fake = FakeClock()
    found = measure(
        {"engine": lambda _: fake.advance(2.0), "b": lambda _: fake.advance(2.0)},
        IMAGES,
        LatencyOptions(rounds=500, seconds=10, min_rounds=10),
        clock=fake.clock(),
    )
    assert found.method.rounds == 10


def test_a_drifting_baseline_shows_as_noise() -> None:
    fake, calls = FakeClock(), iter(range(100_000))
    # The same runner, timed twice in each round, alternates between two speeds.
    found = measure(
        {"engine": lambda _: fake.advance(0.001), "b": lambda _: fake.advance((0.001, 0.002)[next(calls) % 2])},
        IMAGES,
        LatencyOptions(rounds=20, warmup_seconds=0.05),
        clock=fake.clock(),
    )
    assert abs(found.method.noise - 1) > 0.3


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
    with pytest.raises(InputError, match="at least 16 images"):
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
    clock = Clock(now=lambda: fake.seconds, sleep=fake.advance, machine=lambda: next(states))
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
