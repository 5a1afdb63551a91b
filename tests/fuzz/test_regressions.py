"""Files that once broke a loader, and the seeds that the fuzzer starts from, are taken or refused in a sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.harness import FIELDS, MODULES, REGRESSIONS
from tests.fuzz.loaders import LOADERS, Loader, attempt


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.name)
def test_seeds_are_good_files(loader: Loader) -> None:
    # A seed that is refused would let the fuzzer see nothing but the refusal.
    assert all(attempt(loader, seed) for seed in loader.seeds())


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_broke_a_loader_is_refused(path: Path) -> None:
    loader = next(loader for loader in LOADERS if loader.name == path.parent.name)
    assert not attempt(loader, path.read_bytes())


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.name)
@pytest.mark.parametrize("data", [b"", b"\0", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe\xfd"])
def test_hostile_classics(loader: Loader, data: bytes) -> None:
    attempt(loader, data)


def test_files_with_changed_fields_are_taken_or_refused() -> None:
    # A process of its own, because this one has threads that forking would not survive.
    command = [sys.executable, "-m", "tests.fuzz.harness", FIELDS, "--runs", "25"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # All of them refused would mean that the changes are too coarse to find anything.
    assert re.search(r"\d+ refused, \d+ taken", done.stdout), done.stdout


def test_the_fuzzer_follows_what_the_loaders_name() -> None:
    assert {loader.name: loader.modules for loader in LOADERS} == MODULES
