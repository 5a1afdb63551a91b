"""A device over a real sshd: what works, and the five ways in which it does not. Skipped where there is no sshd.

``.ci/run`` prints the reason of a skip: without openssh-server and rsync nothing here is tried.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from radixrt.engines.cpu.onnxruntime import OnnxRuntimeTarget
from radixrt.engines.cpu.openvino import OpenVinoTarget
from radixrt.errors import UnavailableError
from radixrt.remote import agent, visit
from radixrt.remote.visit import Errand, carry_out, clean_up, look, refusal
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import SIZE, write_bundle
from tests.engines.bundle.test_run_bundle import bare_environment
from tests.remote.loopback import MISSING, Loopback

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}")
PARTS = 3


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    server = Loopback(tmp_path_factory.mktemp("loop")).start()
    yield server
    server.stop()


def errand(folder: Path) -> Errand:
    folder.mkdir()
    images = folder / "images"
    images.mkdir()
    for part in range(PARTS):
        array = np.random.default_rng(part).normal(size=(4, 3, SIZE, SIZE)).astype(np.float32)
        np.savez(images / f"{part:03d}.npz", input=array)
    bundle, original = (write_bundle(folder / name, batch=(1, 4)).path for name in ("bundle", "original"))
    return Errand(bundle, original, images, builds=False, plans=False, sizes=(1, 4), rounds=30)


class Told:
    """What was begun on the device; ``at`` a step something happens."""

    def __init__(self, at: str = "", happens: object = None) -> None:
        self.steps: list[str] = []
        self._at, self._happens = at, happens

    def __call__(self, step: str, done: int, total: int) -> None:
        self.steps += [step] if step not in self.steps else []
        if step == self._at and callable(self._happens):
            self._happens()


@pytest.mark.slow
# What comes back is what the engine answers, and nothing is left on the device.
def test_a_bundle_is_run_and_timed_by_its_own_runner(loop: Loopback, tmp_path: Path) -> None:
    given = errand(tmp_path / "errand")
    session = onnxruntime.InferenceSession(str(given.bundle / "engine.onnx"))
    expected = [session.run(None, {"input": np.load(file)["input"]})[0] for file in sorted(given.images.iterdir())]
    (tmp_path / "scratch").mkdir()
    found = carry_out(loop.device(), given, tmp_path / "scratch", Told())
    assert [path.name for path in found.outputs] == ["000.npz", "001.npz", "002.npz"]
    for path, logits in zip(found.outputs, expected, strict=True):
        np.testing.assert_allclose(np.load(path)["logits"], logits, rtol=1e-5)
    timed = [(t.runner, t.batch, len(t.samples_ms)) for t in found.timed]
    assert timed == [("bundle", 1, 30), ("bundle", 4, 30), ("original", 1, 30), ("original", 4, 30)]
    assert found.runtime == {"name": "onnxruntime", "version": onnxruntime.__version__}
    assert found.plan is None and found.before.cores >= 1
    assert look(loop.device()).kept == []
    assert "torch" not in found.facts.modules and found.facts.modules["numpy"] == np.__version__


@pytest.mark.slow
# A device's account is not the caller's: nothing there may count on the caller's rights or files.
def test_another_user_with_numpy_and_onnxruntime_alone(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with Loopback.of_another_user() as server:
        device = server.device(folder="~/radixrt")
        found = carry_out(device, errand(tmp_path / "errand"), tmp_path / "scratch", Told())
        assert len(found.outputs) == PARTS and {t.runner for t in found.timed} == {"bundle", "original"}
        assert set(found.facts.modules) == {"numpy", "onnxruntime"}
        work = server.folder / "radixrt"
        assert work.owner() == server.user and list(work.iterdir()) == []
        lock = next(server.folder.glob("radixrt-device.lock"))
        assert lock.owner() == server.user
    with pytest.raises(KeyError):
        pwd.getpwnam(server.user)


# Fault one: nobody is there. Said before anything starts, with the command to try.
def test_a_device_that_does_not_answer(loop: Loopback) -> None:
    loop.stop()
    try:
        with pytest.raises(UnavailableError, match=r"^loop is not available: .*refused\. Try `ssh loop`"):
            look(loop.device())
        done = radixrt("device", "check", "nobody@host.invalid")
        assert done.code == 4 and "host.invalid" in done.sentence
    finally:
        loop.serve()


@pytest.mark.slow
# Fault two: it vanishes half-way. What it did is kept there, and the next run begins nothing twice.
def test_a_device_that_vanishes_half_way(loop: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, device = errand(tmp_path / "first"), loop.device(wait_s=20)
    (tmp_path / "a").mkdir()
    with pytest.raises(UnavailableError, match=r"^loop is not available: .*what is done is kept"):
        carry_out(device, given, tmp_path / "a", Told("run 3 of 3", loop.cut))
    assert len(look(device).kept) == 1
    monkeypatch.setattr(visit, "TURNS", 1)
    told = Told()
    (tmp_path / "b").mkdir()
    found = carry_out(device, errand(tmp_path / "second"), tmp_path / "b", told)
    assert len(found.outputs) == PARTS and "run 1 of 3" not in told.steps and "time bundle 1" in told.steps
    assert look(device).kept == []


# Fault three: its disk is full, as is known beforehand, or as rsync finds.
def test_a_full_disk(loop: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = loop.folder / "small"
    work.mkdir()
    loop.stop()
    if not loop.serve(disk=work):
        loop.serve()
        pytest.skip("this system lets nobody mount a small file system")
    try:
        device = loop.device(folder=str(work / "there"))
        (tmp_path / "a").mkdir()
        with pytest.raises(UnavailableError, match=r"its disk has \d+ MB free, and \d+ MB are needed"):
            carry_out(device, errand(tmp_path / "first"), tmp_path / "a", Told())
        monkeypatch.setattr(visit, "_ROOM", 0)
        (tmp_path / "b").mkdir()
        with pytest.raises(
            UnavailableError, match=r"^loop is not available: its disk is full( or failing)?\. Make room"
        ):
            carry_out(device, errand(tmp_path / "second"), tmp_path / "b", Told())
        clean_up(device, look(device))
        assert look(device).kept == []
    finally:
        loop.stop()
        loop.serve()


# Fault four: another build holds it. The second says who, or waits.
def test_two_builds_on_one_device(loop: Loopback, tmp_path: Path) -> None:
    code = f"import sys; sys.argv = ['']; exec(open({agent.__file__!r}).read().split('if __name__')[0])\n"
    code += "lock('a build of ada@box', 0); print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(loop.folder)})
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    try:
        assert look(loop.device()).holder == "a build of ada@box"
        (tmp_path / "a").mkdir()
        with pytest.raises(UnavailableError, match=r"it is busy with a build of ada@box\. Run it again"):
            carry_out(loop.device(), errand(tmp_path / "first"), tmp_path / "a", Told())
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    time.sleep(0.1)
    assert look(loop.device()).holder == ""
    clean_up(loop.device(), look(loop.device()))


# Fault five: another Python than is needed, none, or one that lacks a library.
def test_another_python(loop: Loopback, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"it has no python3\.99 .*\[device\] table"):
        look(loop.device(python="python3.99"))
    bare = loop.device(python=bare_environment(tmp_path / "bare", ()))
    assert "has no numpy" in str(refusal(bare, look(bare), OnnxRuntimeTarget()))
    facts = look(loop.device())
    assert refusal(bare, facts, OnnxRuntimeTarget()) is None
    assert "has no openvino" in str(refusal(bare, facts, OpenVinoTarget()))
    old = facts.model_copy(update={"python": "3.7.16"})
    assert "is 3.7.16, and run.py takes 3.8" in str(refusal(bare, old, OnnxRuntimeTarget()))
    bad = loop.folder / "python2"
    bad.write_text("#!/bin/sh\necho 'SyntaxError: future feature annotations is not defined' >&2; exit 1\n")
    bad.chmod(0o755)
    with pytest.raises(UnavailableError, match="is another Python"):
        look(loop.device(python=str(bad)))


def test_check_tells_what_a_device_can_do(loop: Loopback, tmp_path: Path) -> None:
    recipe = loop.folder / "recipe.toml"
    recipe.write_text(f'[device.shelf]\nssh = "loop"\nssh_config = "ssh_config"\npython = "{loop.python}"\n')
    done = radixrt("device", "check", "shelf", "--recipe", recipe)
    assert done.code == 0, done.err
    assert "onnxruntime" in done.out and "has no openvino" in done.out and "shelf (loop)" in done.out
