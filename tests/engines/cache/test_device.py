"""What libraries keep for this device: found and pruned with the rest, and never in the way of a build."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from radixrt.engines.cache.device import device_cache, device_files, keep, prune_device_files, read_kept
from radixrt.files import cache_home
from tests.cli_runner import radixrt


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_home()


def used(path: Path, days_ago: float, size: int = 1000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - days_ago * 86400,) * 2)
    return path


def told(*options: str) -> str:
    done = radixrt("cache", "--prune", *options)
    assert done.code == 0
    return " ".join(f"{done.out} {done.err}".split())


# The specification of the folder: what is not absolute is ignored, or caches would be strewn over working folders.
def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_home() == Path.home() / ".cache" / "radixrt"


def test_the_longest_unused_goes_first_whoever_left_it(home: Path) -> None:
    old = used(home / "devices" / "timing-orin.cache", 9)
    plan = used(home / "plans" / "abc.plan", 5)
    new = used(home / "devices" / "openvino" / "1.blob", 1)
    assert [file.path for file in device_files()] == [old, plan, new]
    assert [file.path for file in prune_device_files(older_than_s=7 * 86400)] == [old]
    assert [file.path for file in prune_device_files(max_bytes=1000)] == [plan]
    assert new.exists() and not old.exists()


# A user who wants the room back gets it: the device's files may well be the largest of all.
def test_the_command_shows_and_prunes_them(home: Path) -> None:
    blob = used(home / "devices" / "1.blob", 1, size=3_000_000)
    assert "1.blob" in radixrt("cache").out
    assert "0 files made for this device" in told("--max-mb", "4")
    assert blob.exists()
    assert "1 files made for this device, 3.0 MB" in told()
    assert not blob.exists()


def test_a_cache_that_cannot_be_read_or_written_is_no_cache(tmp_path: Path, home: Path) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("")
    assert device_cache() is None
    keep(home / "devices" / "file", b"data")
    assert read_kept(home / "devices" / "file") == read_kept(None) == b""
    assert list(tmp_path.iterdir()) == [home]


# Two builds on one device end at the same time: each of them writes, and whoever reads gets one of the two.
def test_two_writers_of_one_file_do_not_meet(home: Path) -> None:
    path, failed = home / "devices" / "timing.cache", []

    def write(text: bytes) -> None:
        try:
            for _ in range(200):
                keep(path, text)
                assert read_kept(path) in (b"a" * 5000, b"b" * 5000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter * 5000,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert list(path.parent.iterdir()) == [path]
