"""Protects a sweep's folder from what a killed sweep left in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from radixrt.engines.bundle.folder import Bundle
from radixrt.errors import InputError
from radixrt.fields import fill
from radixrt.fleet.options import SweepOptions
from radixrt.fleet.rows import rows_of
from radixrt.fleet.scratch import scratch
from radixrt.fleet.store import Store
from radixrt.fleet.worker import Outcome
from tests.engines.bundle.bundles import write_bundle
from tests.engines.bundle.test_signing import make_keys
from tests.validate.reports import make_report


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


def test_a_row_is_signed_where_its_sweep_runs_and_found_again(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path, "mine")
    given = {"precision": "fp32", "target": "onnxruntime", "sign_key": private}
    (row,) = rows_of(fill(SweepOptions, given))
    made = write_bundle(tmp_path / "made")
    files = {path.name: path.read_bytes() for path in made.path.iterdir()}
    store = Store(tmp_path / "a folder, mine")
    with store.held():
        outcome = Outcome(host="worker", seconds=1.0, report=make_report().to_json().encode(), bundle=files)
        record = store.put(row, outcome)
        Bundle.read(store.folder / row.name, require_signature=public)
        assert store.finished(row) == record
        for kept in (b"", b"{", b'{"schema": 7}'):
            (store.folder / "rows" / f"{row.name}.json").write_bytes(kept)
            assert store.finished(row) is None


def test_a_folder_that_no_build_made_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (row,) = rows_of(fill(SweepOptions, {"precision": "fp32", "target": "onnxruntime"}))
    mine = tmp_path / row.name / "notes.txt"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(InputError, match="is not a bundle of this RadixRT, so it is left alone"):
        Store(tmp_path).check_room([row])
    assert mine.exists()


def test_a_refused_sweep_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError), Store(tmp_path / "sweep").held():
        raise InputError("refused")
    assert not (tmp_path / "sweep").exists()
