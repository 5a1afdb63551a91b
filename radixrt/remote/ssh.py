"""OpenSSH and rsync, as the user has them: a command on a device, files there and back, and what went wrong in words.

Nothing asks for a password (``BatchMode``), a host that does not answer ends in 15 seconds, and one that vanishes in
half a minute. Host keys are checked as the user's configuration says.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from radixrt.errors import UnavailableError, first_line
from radixrt.remote.device import Device

OPTIONS = ("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=5", "ServerAliveCountMax=5")
BEAT_S = 5.0
IDLE_S = 60
_NOT_FOUND = 127
_FILE_ERROR = 11  # rsync's
_PERCENT = re.compile(r"(\d+)%")


@dataclass(frozen=True)
class Connection:
    """One device, reached anew for each call."""

    device: Device

    def run(self, command: str, given: bytes = b"", timeout: float = 120.0) -> str:
        """Runs a command in the device's shell and returns what it printed.

        Raises:
            UnavailableError: the device does not answer, or the command failed there.
        """
        with _here("ssh"):
            try:
                done = subprocess.run(
                    self._ssh(command), input=given, capture_output=True, timeout=timeout, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise self.lost(f"it did not answer in {timeout:g} s") from error
        if done.returncode != 0:
            raise self.failed(done.returncode, done.stderr.decode("utf-8", "replace"))
        return done.stdout.decode("utf-8", "replace")

    @contextlib.contextmanager
    def talk(self, command: str) -> Iterator[Iterator[str]]:
        """Runs a command that lives as long as it is listened to, and gives its lines as they come.

        Raises:
            UnavailableError: the device does not answer, vanished, or the command failed there.
        """
        with _here("ssh"), tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                self._ssh(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            stop = threading.Event()
            assert process.stdin is not None and process.stdout is not None
            beat = threading.Thread(target=_beat, args=(process.stdin, stop), daemon=True)
            beat.start()
            try:
                yield iter(process.stdout)
                code = process.wait(timeout=IDLE_S)
            finally:
                stop.set()
                # Also where the listener had enough: the other side ends when nobody sends any more.
                process.kill()
                process.wait()
                beat.join()
                process.stdout.close()
            if code != 0:
                errors.seek(0)
                raise self.failed(code, errors.read().decode("utf-8", "replace"))

    def send(self, folder: Path, there: str, told: Callable[[int], None]) -> None:
        """Copies a folder's contents to the device; what lies there already is not sent again.

        Args:
            folder: what is sent.
            there: the folder that takes it, which exists.
            told: takes the percent that are done.

        Raises:
            UnavailableError: the device vanished, or its disk is full.
        """
        self._rsync([f"{folder}/", f"{self.device.ssh}:{there}/"], told)

    def fetch(self, there: str, folder: Path) -> None:
        """Copies the contents of a folder on the device to one here.

        Raises:
            UnavailableError: the device vanished.
        """
        self._rsync([f"{self.device.ssh}:{there}/", f"{folder}/"], lambda percent: None)

    def lost(self, why: str) -> UnavailableError:
        """The sentence on a device that is not reached any more."""
        return UnavailableError(self.device.name, why, f"Try `ssh {self.device.ssh}`; what is done is kept.")

    def failed(self, code: int, errors: str) -> UnavailableError:
        """The sentence on a command that did not end well: why, and what to do."""
        device, said = self.device, _last_line(errors)
        full = "No space left on device" in errors or "Disk quota exceeded" in errors
        if full or code == _FILE_ERROR:
            hint = f"Make room for {device.folder} there, or name another folder; what is done is kept."
            # The receiver's own words are lost where it ends before they are sent.
            return UnavailableError(device.name, f"its disk is {'full' if full else 'full or failing'}", hint)
        if re.search(r"rsync: (command )?not found|rsync: No such file", errors):
            return UnavailableError(device.name, "it has no rsync", "Install it there: `sudo apt install rsync`.")
        if code in (_NOT_FOUND, 126):
            hint = "Name another: `python = ...` in its [device] table."
            return UnavailableError(device.name, f"it has no {device.python} ({said})", hint)
        if "SyntaxError" in errors or "ImportError" in errors or "ModuleNotFoundError" in errors:
            hint = "run.py takes 3.8 and later: name one with `python = ...` in its [device] table."
            return UnavailableError(device.name, f"its {device.python} is another Python ({said})", hint)
        return self.lost(said or f"ssh ended with code {code}")

    def _rsync(self, paths: list[str], told: Callable[[int], None]) -> None:
        remote = shlex.join(["ssh", *self._options()])
        command = ["rsync", "--recursive", "--checksum", "--partial", "--compress", f"--timeout={IDLE_S}"]
        command += ["--delete", "--info=progress2", "--no-inc-recursive", "--outbuf=L", "-e", remote, "--", *paths]
        with _here("rsync"), tempfile.TemporaryFile() as errors:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
                assert process.stdout is not None
                for line in process.stdout:  # carriage returns are line ends in text mode
                    if found := _PERCENT.search(line):
                        told(int(found[1]))
            if process.returncode != 0:
                errors.seek(0)
                raise self.failed(process.returncode, errors.read().decode("utf-8", "replace"))

    def _options(self) -> list[str]:
        own = ["-F", str(self.device.ssh_config)] if self.device.ssh_config else []
        return [*own, *(word for option in OPTIONS for word in ("-o", option))]

    def _ssh(self, command: str) -> list[str]:
        return ["ssh", *self._options(), "--", self.device.ssh, command]


@contextlib.contextmanager
def _here(program: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UnavailableError(program, "it is not installed here", f"Install it: `apt install {program}`.") from error


def _beat(stream: IO[str], stop: threading.Event) -> None:
    """Tells the other side that somebody listens."""
    with contextlib.suppress(OSError, ValueError):
        while not stop.wait(BEAT_S):
            stream.write("\n")
            stream.flush()
    with contextlib.suppress(OSError):
        stream.close()


def _last_line(text: str) -> str:
    """What a program said last, which is why it ended; rsync adds a line of its own that says less."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("rsync error")]
    return first_line(ValueError(lines[-1])) if lines else ""
