"""A visit to a device: what is there, and an errand with a bundle, which its own ``run.py`` builds and measures.

A bundle goes into a folder that is named by what it holds, so an errand that was cut short goes on where it stopped:
what was sent lies there, a plan that was built and outputs that were written are taken as they are. Times are taken in
every visit. The folder is removed when all of it is here.
"""

from __future__ import annotations

import getpass
import json
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from radixrt.engines.base import Target
from radixrt.engines.registry import all_targets
from radixrt.errors import UnavailableError
from radixrt.files import sha256_of
from radixrt.remote import agent
from radixrt.remote.device import Device
from radixrt.remote.ssh import Connection
from radixrt.validate.measure import machine_state
from radixrt.validate.measure.machine_state import CpuTime, MachineState

OLDEST = (3, 8)
TURNS = 3
"""How often engine and original are timed in turn, so that a slow minute falls on both."""

Progress = Callable[[str, int, int], object]
"""Takes a step's name, how much of it is done, and how much there is."""

_GPU_MODULES = ("pycuda", "cuda")
_ROOM = 1.3  # of what is sent: a plan and the outputs come to it


class Facts(BaseModel):
    """What is on a device; ``modules`` are versions by name, ``holder`` is the build that holds it."""

    model_config = ConfigDict(frozen=True)

    python: str
    system: str
    release: str
    machine: str
    processor: str
    gpu: str
    modules: dict[str, str]
    rsync: bool
    free_bytes: int
    folder: str
    kept: list[str]
    holder: str

    def environment(self, device: Device) -> dict[str, str]:
        """The device in words, for a report."""
        words = {
            "device": f"{device.name} ({device.ssh})",
            "device system": f"{self.system} {self.release} {self.machine}",
            "device processor": self.processor,
            "device GPU": self.gpu,
            "device python": self.python,
            **{f"device {name}": version for name, version in self.modules.items() if name != "cuda"},
        }
        return {name: value for name, value in words.items() if value}


def look(device: Device) -> Facts:
    """Asks a device what is there.

    Raises:
        UnavailableError: it does not answer, or its Python is older than 3.7 or missing.
    """
    source = Path(agent.__file__).read_bytes()
    modules = ["numpy", *(_module(target) for target in all_targets()), *_GPU_MODULES]
    call = f"exec {device.python} - probe {_quoted(device.folder)} {shlex.join(modules)}"
    said = Connection(device).run(call, source)
    try:
        return Facts.model_validate(json.loads(said.splitlines()[-1]))
    except (ValueError, IndexError) as error:
        hint = f"`ssh {device.ssh} true` must print nothing: see its shell's start files."
        raise UnavailableError(device.name, "its answer is not the one expected", hint) from error


def _module(target: Target) -> str:
    """What a target's library is called in Python."""
    return target.name.replace("-", "_")


def refusal(device: Device, facts: Facts, target: Target) -> UnavailableError | None:
    """Why a device cannot take a target's bundles; None where it can."""
    version = tuple(int(part) for part in facts.python.split(".")[:2])
    name = f"Name another: `python = ...` in [device.{device.name}]"
    if version < OLDEST:
        return UnavailableError(device.name, f"its {device.python} is {facts.python}, and run.py takes 3.8", f"{name}.")
    for wanted in ("numpy", _module(target)):
        if wanted not in facts.modules:
            return UnavailableError(
                device.name, f"its {device.python} has no {wanted}", f"{name}, or install it there."
            )
    if target.traits.compiled and not set(_GPU_MODULES) & set(facts.modules):
        hint = f"{name}, or install one there."
        return UnavailableError(device.name, f"its {device.python} has neither pycuda nor cuda-python", hint)
    if not facts.rsync:
        return UnavailableError(device.name, "it has no rsync", "Install it there: `sudo apt install rsync`.")
    return None


@dataclass(frozen=True)
class Errand:
    """What is to be done on a device.

    Attributes:
        bundle: a sealed bundle.
        original: the same with the original's graph, which the engine's times are held against.
        images: a folder of ``000.npz`` and so on, prepared samples each: every input by name, (N, ...).
        builds: the device builds the bundle's plan; the original's it builds wherever plans are run.
        plans: the target runs plans.
        sizes: the batch sizes to time.
        rounds: timed rounds of each.
    """

    bundle: Path
    original: Path
    images: Path
    builds: bool
    plans: bool
    sizes: tuple[int, ...]
    rounds: int

    @property
    def key(self) -> str:
        """A name for what is sent: the same for the same bundle and images, whenever it was made."""
        from hashlib import sha256

        kept = sorted(p for folder in (self.bundle, self.original, self.images) for p in folder.rglob("*.*"))
        # A manifest says when it was made.
        lines = [f"{path.parent.name}/{path.name} {sha256_of(path)}" for path in kept if path.name != "manifest.json"]
        return sha256("\n".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Timed:
    """One runner at one batch size on a device: milliseconds of each round, and of its kernels alone."""

    runner: str
    batch: int
    samples_ms: tuple[float, ...]
    device_p50_ms: float | None


@dataclass(frozen=True)
class Found:
    """What a device gave back.

    Attributes:
        outputs: ``.npz`` files in the order of the images.
        plan: the plan that it built.
        runtime: the engine's runtime as ``run.py`` names it: name, version, device, capability.
        before, after: looks at the device around the timing.
        seconds: of its builds, by step.
    """

    device: Device
    facts: Facts
    outputs: tuple[Path, ...]
    plan: Path | None
    timed: tuple[Timed, ...]
    runtime: dict[str, str]
    before: MachineState
    after: MachineState
    seconds: dict[str, float] = field(default_factory=dict)


def carry_out(device: Device, errand: Errand, scratch: Path, progress: Progress) -> Found:
    """Takes a bundle to a device, has it built and measured there, and brings everything back.

    Args:
        device: where.
        errand: what is to be done.
        scratch: an empty folder here.
        progress: told of each step.

    Raises:
        UnavailableError: the device does not answer, vanished, is full, or busy, or cannot build or run the engine;
            what is done is kept there.
    """
    connection, facts, key = Connection(device), look(device), errand.key
    sent, back = scratch / "sent", scratch / "back"
    steps = list(_steps(errand, len(list(errand.images.iterdir())), device.build_s))
    _pack(errand, sent, {"who": _who(errand), "wait_s": device.wait_s, "steps": steps})
    back.mkdir()
    there = f"{device.folder}/{key}"
    size = sum(path.stat().st_size for path in sent.rglob("*") if path.is_file())
    if key not in facts.kept and facts.free_bytes < _ROOM * size:
        hint = f"Make room for {device.folder} there, or name another folder."
        free = f"its disk has {facts.free_bytes / 1e6:.0f} MB free, and {_ROOM * size / 1e6:.0f} MB are needed"
        raise UnavailableError(device.name, free, hint)
    connection.run(f"mkdir -p -- {_quoted(there)}/in {_quoted(there)}/out")
    connection.send(sent, f"{there}/in", lambda percent: _tell(progress, percent))
    events = _work(connection, there, steps, progress)
    connection.fetch(f"{there}/out", back)
    connection.run(f"rm -rf -- {_quoted(there)}")
    timings = [event for event in events if event["step"].startswith("time ")]
    engine = next(json.loads(event["out"]) for event in timings)
    plan = back / "engine.plan"
    return Found(
        device=device,
        facts=facts,
        outputs=tuple(sorted(back.glob("[0-9]*.npz"))),
        plan=plan if plan.exists() else None,
        timed=tuple(_timed(timings)),
        runtime=engine["runtime"],
        before=_state(timings[0]["before"]),
        after=_state(timings[-1]["after"]),
        seconds={event["step"]: event["seconds"] for event in events if event["step"].startswith("build ")},
    )


def clean_up(device: Device, facts: Facts) -> None:
    """Removes what errands left on a device that were cut short.

    Raises:
        UnavailableError: it does not answer.
    """
    if facts.kept:
        names = " ".join(_quoted(f"{device.folder}/{name}") for name in facts.kept)
        Connection(device).run(f"rm -rf -- {names}")


def _tell(progress: Progress, percent: int) -> None:
    progress("sending", percent, 100)


def _pack(errand: Errand, folder: Path, job: dict[str, Any]) -> None:
    """Lays out what is sent."""
    folder.mkdir()
    for name, source in (("bundle", errand.bundle), ("original", errand.original), ("images", errand.images)):
        source.rename(folder / name)
    for file in (Path(agent.__file__), Path(machine_state.__file__)):
        shutil.copyfile(file, folder / file.name)
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def _steps(errand: Errand, parts: int, seconds: float) -> Iterator[dict[str, Any]]:
    """The calls of ``run.py``, in order; what one makes is named, so that it is not made again."""

    def step(name: str, bundle: str, arguments: Sequence[str], makes: str = "") -> dict[str, Any]:
        given = [f"{bundle}/run.py", *arguments]
        return {"name": name, "arguments": given, "makes": makes, "timeout_s": seconds}

    plans = {"bundle": "../out/engine.plan", "original": "../out/original.plan"} if errand.plans else {}
    for name, plan in plans.items():
        if name == "original" or errand.builds:
            yield step(f"build {name}", name, ["--build", "--plan", plan, "--json"], plan)
    if not errand.builds:
        plans.pop("bundle", None)
    opened = {name: ["--plan", plans[name]] if name in plans else [] for name in ("bundle", "original")}
    for index in range(parts):
        made = f"../out/{index:03d}.npz"
        given = ["--input", f"images/{index:03d}.npz", "--output", made, "--json"]
        yield step(f"run {index + 1} of {parts}", "bundle", [*opened["bundle"], *given], made)
    rounds = str(max(10, -(-errand.rounds // TURNS)))
    sizes = ",".join(map(str, errand.sizes))
    for turn in range(TURNS):
        # Whichever runs first in a turn finds the device cooler.
        for name in ("bundle", "original") if turn % 2 == 0 else ("original", "bundle"):
            given = ["--input", "images/000.npz", "--bench", "--batch", sizes, "--rounds", rounds, "--json"]
            yield step(f"time {name} {turn + 1}", name, [*opened[name], *given])


def _work(
    connection: Connection, there: str, steps: Sequence[dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """Runs the job and follows it; returns what each step said."""
    device, done, ended = connection.device, list[dict[str, Any]](), False
    with connection.talk(f"cd {_quoted(there)}/in && exec {device.python} agent.py run") as lines:
        for line in lines:
            event = json.loads(line)
            if event["event"] == "busy":
                hint = "Run it again when that is done, or give it `wait_s`; what is done is kept."
                raise UnavailableError(device.name, f"it is busy with {event['holder']}", hint)
            if event["event"] == "start":
                progress(event["step"], len(done), len(steps))
            if event["event"] == "done":
                if event["code"] != 0:
                    raise connection.failed(event["code"], f"{event['step']}: {event['err']}")
                done.append(event)
            ended = ended or event["event"] == "end"
    if not ended:
        raise connection.lost("it stopped half-way")
    return done


def _timed(timings: Sequence[dict[str, Any]]) -> Iterator[Timed]:
    """The rounds of all turns together."""
    kept: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for event in timings:
        for row in json.loads(event["out"])["latency"]:
            kept.setdefault((event["step"].split()[1], row["batch"]), []).append(row)
    for (runner, batch), rows in sorted(kept.items()):
        samples = tuple(sample for row in rows for sample in row["samples_ms"])
        on_device = sorted(row["device_p50_ms"] for row in rows if "device_p50_ms" in row)
        yield Timed(runner, batch, samples, on_device[len(on_device) // 2] if on_device else None)


def _state(seen: dict[str, Any]) -> MachineState:
    cpu = seen["cpu"]
    return MachineState(**{**seen, "cpu": CpuTime(**cpu) if cpu else None})


def _who(errand: Errand) -> str:
    """Who holds the device, for others who want it."""
    return f"a build of {getpass.getuser()}@{platform.node()}"


def _quoted(path: str) -> str:
    """A path for the shell there; one that starts with ~ means the home there."""
    return shlex.quote(path.removeprefix("~/"))
