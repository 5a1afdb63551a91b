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
import time
from dataclasses import dataclass, field
from pathlib import Path

from radixrt.remote.device import Device
from tests.engines.bundle.test_run_bundle import bare_environment

PACKAGES = ("numpy", "onnxruntime", "flatbuffers", "google", "packaging", "coloredlogs", "humanfriendly", "sympy")
MISSING = [name for name in ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync") if shutil.which(name) is None]


@dataclass
class Loopback:
    """The server, and how a device on it is said."""

    folder: Path
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
            f"Host loop\n HostName 127.0.0.1\n Port {self.port}\n User {getpass.getuser()}\n"
            f" IdentityFile {self.folder}/user\n IdentitiesOnly yes\n UserKnownHostsFile {self.folder}/known\n"
            " GlobalKnownHostsFile /dev/null\n"
        )
        self.python = bare_environment(self.folder / "venv", PACKAGES)
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

    def device(self, **more: object) -> Device:
        given = {"name": "loop", "ssh": "loop", "ssh_config": self.folder / "ssh_config", "python": self.python}
        return Device(**{**given, "folder": str(self.folder / "work"), **more})  # type: ignore[arg-type]
