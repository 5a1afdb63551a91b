"""Two workers share two cores, and no test may find results that another run left in the user's cache.

What depends on the machine is set or said: SIGINT is not ignored, as it is under nohup and cron, and the first lines of
a run name the processor and its instructions, on which the kernels of every runtime depend.
"""

from __future__ import annotations

import functools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# Before any numeric library loads: a pool of threads per worker would only contend.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from radixrt.machine import processor

# Children inherit what is ignored, and some tests interrupt them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_INSTRUCTIONS = re.compile(r"(avx|fma|f16c|amx|sve|asimd|bf16|i8mm).*")


def pytest_sessionstart(session: pytest.Session) -> None:
    # Not pytest_report_header: -q leaves headers out.
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput"):
        reporter.write_line(f"processor: {processor()}; {' '.join(instructions()) or 'instructions not known'}")


def instructions() -> tuple[str, ...]:
    """The vector instructions that this processor lists."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", listed, re.MULTILINE)
    return tuple(sorted(flag for flag in found[1].split() if _INSTRUCTIONS.fullmatch(flag))) if found else ()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(autouse=True, scope="session")
def brief_timing() -> Iterator[None]:
    """Whole builds give up on steady times soon, and time briefly: beside another worker no test judges by times."""
    from radixrt.judge import measure

    brief = functools.partial(measure.LatencyOptions, warmup_seconds=1.0, settle_s=0.002, timed_s=0.002)
    with mock.patch.object(measure, "LatencyOptions", brief):
        yield
