"""A real sshd on the loopback interface, with keys and configuration of its own in a folder, as a device.

Its Python finds numpy and onnxruntime alone. Nothing of the machine's own ssh is read or changed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime
import pytest

from radixrt.remote.device import Device
from tests.engines.bundle.test_run_bundle import bare_environment

PACKAGES = ("numpy", "onnxruntime", "flatbuffers", "google", "packaging", "coloredlogs", "humanfriendly", "sympy")
MISSING = [name for name in ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync") if shutil.which(name) is None]


def python_for_others() -> str | None:
    """A Python of this version that any user may run, and whose packages they may read."""
    version = f"/usr/bin/python3.{sys.version_info.minor}"
    packages = Path(onnxruntime.__file__).resolve()
    for path in (Path(sys.executable).resolve(), Path(version)):
        if path.exists() and all(one.stat().st_mode & 0o001 for one in (*path.parents, *packages.parents)):
            return str(path)
    return None


@dataclass
class Loopback:
    """The server, and how a device on it is said."""

    folder: Path
    user: str = field(default_factory=getpass.getuser)
    port: int = 0
    python: str = ""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> Loopback:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for key in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)]
            subprocess.run(command, check=True)
        public = (self.folder / "host.pub").read_text()
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {public}")
        (self.folder / "ssh_config").write_text(
            f"Host loop\n HostName 127.0.0.1\n Port {self.port}\n User {self.user}\n"
            f" IdentityFile {self.folder}/user\n IdentitiesOnly yes\n UserKnownHostsFile {self.folder}/known\n"
            " GlobalKnownHostsFile /dev/null\n"
        )
        self.python = self.python or bare_environment(self.folder / "venv", PACKAGES)
        self.serve()
        return self

    def serve(self, disk: Path | None = None) -> bool:
        """Starts the server, on a disk of 300 kB at ``disk``; says whether that could be had."""
        Path("/run/sshd").mkdir(exist_ok=True)
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/user.pub",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "PidFile none",
            # The lock of a device lies there.
            f"SetEnv TMPDIR={self.folder}",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        inside = []
        if disk is not None:
            inside = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=300k none "$0" && exec "$@"', str(disk)]
        self.process = subprocess.Popen(
            [*inside, "/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")],
            stderr=(self.folder / "log").open("ab"),
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return True
            if self.process.poll() is not None and disk is not None:
                return False
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def cut(self) -> None:
        """Ends every connection at once, as a cable that is pulled does."""
        assert self.process is not None
        for status in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(status.read_text().rpartition(")")[2].split()[1]) == self.process.pid:
                    os.kill(int(status.parent.name), signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    @classmethod
    @contextlib.contextmanager
    def of_another_user(cls) -> Iterator[Loopback]:
        """A server whose connections are another user's, who is made and removed; None of the caller's files is theirs.

        Their Python is one of the system's, because they may not run the caller's; skipped where that cannot be had.
        """
        python = python_for_others()
        if os.geteuid() != 0 or shutil.which("useradd") is None:
            pytest.skip("only root makes another user, with useradd")
        if python is None:
            pytest.skip(f"no Python {sys.version_info.major}.{sys.version_info.minor} here that another user may run")
        name, home = f"radixrt-{os.getpid()}", Path(tempfile.mkdtemp(prefix="radixrt-home-"))
        # A password of "*" fits nothing, and does not lock the account as useradd's own "!" does.
        make = ["useradd", "--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", "--password", "*", name]
        subprocess.run(make, check=True, capture_output=True)
        try:
            made = bare_environment(home / "venv", PACKAGES, python)
            server = cls(home, name, python=made).start()
            for path in (home, home / "user.pub"):
                shutil.chown(path, name)
            home.chmod(0o755)
            try:
                yield server
            finally:
                server.stop()
        finally:
            # Their last session may take a moment more to end, and an account in use is removed by force alone.
            subprocess.run(["userdel", "--force", name], check=True, capture_output=True)
            shutil.rmtree(home)

    def device(self, **more: object) -> Device:
        given = {"name": "loop", "ssh": "loop", "ssh_config": self.folder / "ssh_config", "python": self.python}
        return Device(**{**given, "folder": str(self.folder / "work"), **more})  # type: ignore[arg-type]
