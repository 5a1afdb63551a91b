"""Protects what every writer promises: the old file or the new one, and one sentence where the disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from radixrt.errors import InputError
from radixrt.files import replace_file, replacing, sha256_of


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o644
    assert [found.name for found in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")], ids=["Ctrl-C", "full disk"])
def test_what_stops_half_way_leaves_the_old_file_alone(tmp_path: Path, stop: BaseException) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(b"old")
    expected = InputError if isinstance(stop, OSError) else KeyboardInterrupt
    with pytest.raises(expected), replacing(path) as temporary:
        temporary.write_bytes(b"ne")
        raise stop
    assert path.read_bytes() == b"old" and [found.name for found in tmp_path.iterdir()] == ["table.json"]


# Disks that allocate late report it when they are flushed, and a rename that was not flushed may leave an empty file.
def test_a_disk_that_fills_up_while_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"table\.json cannot be written \(no space left on device\): make room"):
        replace_file(tmp_path / "table.json", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_hash_is_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * (3 << 20))
    (tmp_path / "b").write_bytes(b"a" * (3 << 20) + b"b")
    assert sha256_of(tmp_path / "a") != sha256_of(tmp_path / "b")
