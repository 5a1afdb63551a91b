"""A disk that is full at any point of a build: one sentence, and the old bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# A file system of 512 kB in a namespace of its own: no rights are needed where users may make namespaces.
MOUNT = 'mount -t tmpfs -o size=512k none "$1" && shift && exec "$@"'


def test_builds_on_a_disk_with_ever_more_room(tmp_path: Path) -> None:
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(tmp_path)]
    probe = subprocess.run([*inside, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this system lets nobody mount a small file system")
    command = [*inside, sys.executable, "-m", "tests.engines.bundle.full_disk", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused, written = (int(number) for number in done.stdout.split())
    # The room went from none to plenty: builds must have met the end of the disk at many different points.
    assert refused >= 5
    assert written >= 5
