"""Protects a sweep's folder from what a killed sweep left in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from radixrt.errors import InputError
from radixrt.fleet.scratch import scratch
from radixrt.fleet.store import Store


def test_half_files_of_a_killed_sweep_are_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    half = [tmp_path / ".sweep.json.16gqrovx", tmp_path / "rows" / ".net-fp32-x.json.a1b2c3d4"]
    kept = [tmp_path / "sweep.json", tmp_path / ".notes", tmp_path / "rows" / "net-fp32-x.json"]
    for path in (*half, *kept):
        path.touch()
    with Store(tmp_path).held():
        assert not any(path.exists() for path in half) and all(path.exists() for path in kept)
        with pytest.raises(InputError, match="is being written"), Store(tmp_path).held():
            pass


def test_a_dead_makers_scratch_folder_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    (tmp_path / "row-dead").mkdir()
    (tmp_path / "work").touch()
    with scratch("row", tmp_path) as first, scratch("r", tmp_path) as second:
        assert not (tmp_path / "row-dead").exists() and first.exists() and second.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
