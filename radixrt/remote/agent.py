"""Runs on a device: tells what is there, and carries out the steps of a job with the bundle's own ``run.py``.

    python3 - probe FOLDER MODULE ... < agent.py    one line of JSON: the facts
    python3 agent.py run                            in a folder with job.json: a line of JSON for each event

It needs the standard library alone, of Python 3.7 or later (``run.py`` wants 3.8), and installs nothing. One job at a
time runs on a device: a file's lock says so, which the system drops when this process ends, however it ends. Whoever
started it sends a line every few seconds; when those stop, or the connection ends, the step that runs is ended too.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SILENCE_S = 60.0
TAIL = 4000


class BusyError(Exception):
    """Another job holds the device."""


def say(event: str, **more: Any) -> None:
    """Writes one event."""
    sys.stdout.write(json.dumps(dict(more, event=event)) + "\n")
    sys.stdout.flush()


def version_of(name: str) -> str:
    """The version of a module, empty where it cannot be imported."""
    if importlib.util.find_spec(name) is None:
        return ""
    code = f"import {name} as m; print(getattr(m, '__version__', '') or '')"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    # A namespace package, such as cuda-python's, or an empty folder of that name, tells no version.
    found = done.stdout.decode("utf-8", "replace").strip()
    return (found or ("there" if name in ("pycuda", "cuda") else "")) if done.returncode == 0 else ""


def gpu() -> str:
    """The GPU in words, as the board or the driver's own tool says."""
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0\n ")
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip().split("\n")[0] if done.returncode == 0 else ""


def probe(folder: Path, modules: list[str]) -> dict[str, Any]:
    """What is here, after making the folder that takes the jobs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    holder = ""
    try:
        os.close(lock("", 0))
    except BusyError as error:
        holder = str(error)
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processor": processor(),
        "gpu": gpu(),
        "modules": {name: version for name in modules for version in [version_of(name)] if version},
        "rsync": bool(shutil.which("rsync")),
        "free_bytes": shutil.disk_usage(folder).free,
        "folder": str(folder.resolve()),
        "kept": sorted(path.name for path in folder.iterdir() if path.is_dir()),
        "holder": holder,
    }


def processor() -> str:
    """The processor's name; the architecture where the system tells none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def lock(who: str, wait_s: float) -> int:
    """Takes the device, or raises with who has it; the descriptor holds it until it is closed."""
    path = Path(tempfile.gettempdir(), "radixrt-device.lock")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        handle = os.open(path, os.O_RDONLY)  # another user made it: a lock needs no right to write
    began = time.time()
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.time() - began >= wait_s:
                holder = os.read(handle, 500).decode("utf-8", "replace").strip()
                os.close(handle)
                raise BusyError(holder or "another build") from None
            time.sleep(0.5)
    if who:
        with contextlib.suppress(OSError):  # another user's file
            os.ftruncate(handle, 0)
            os.write(handle, who.encode("utf-8"))
    return handle


class Child:
    """The process of the step that runs, which ends with this one."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str], timeout: float) -> tuple[int, str, str]:
        """Runs a step; returns its code, output and errors."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True)
        self.process = process
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.end()
            out, err = process.communicate()
            err += f"error: it took longer than {timeout:g} s".encode()
        return process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace")[-TAIL:]

    def end(self) -> None:
        """Ends the step with all that it started."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)


def watch(child: Child) -> None:
    """Ends everything when nobody listens any more."""
    while True:
        ready, _, _ = select.select([0], [], [], SILENCE_S)
        if not ready or not os.read(0, 4096):
            child.end()
            os._exit(3)


def machine() -> dict[str, Any]:
    """A look at the machine."""
    import machine_state  # lies beside this file in a job's folder

    seen = machine_state.read_machine()
    cpu = seen.cpu
    return {
        "load": seen.load,
        "cores": seen.cores,
        "numbers": seen.numbers,
        "words": seen.words,
        "cpu": None if cpu is None else {"clock": cpu.clock, "own": cpu.own, "all": cpu.all},
    }


def run(job: dict[str, Any]) -> None:
    """Carries out the steps of a job; one whose file is there already was done by an earlier run."""
    child = Child()
    threading.Thread(target=watch, args=(child,), daemon=True).start()
    try:
        lock(job["who"], job["wait_s"])
    except BusyError as error:
        say("busy", holder=str(error))
        return
    for step in job["steps"]:
        if step["makes"] and Path(step["makes"]).exists():
            say("done", step=step["name"], code=0, out="", err="", seconds=0.0, before=None, after=None)
            continue
        say("start", step=step["name"])
        before, began = machine(), time.time()
        code, out, err = child.run([sys.executable] + step["arguments"], step["timeout_s"])
        seconds = time.time() - began
        say("done", step=step["name"], code=code, out=out, err=err, seconds=seconds, before=before, after=machine())
        if code != 0:
            return
    say("end")


if __name__ == "__main__":
    if sys.argv[1] == "probe":
        say("facts", **probe(Path(sys.argv[2]), sys.argv[3:]))
    else:
        run(json.loads(Path("job.json").read_text()))
