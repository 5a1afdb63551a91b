"""The stage cache: what changes a result changes its key; what is damaged is made again; what is in use stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from radixrt.engines.cache import results as stages
from radixrt.engines.cache.results import StageCache, stage_key
from radixrt.errors import InputError


@dataclass(frozen=True)
class Options:
    method: str = "mse"
    limit: int = 8


def key_of(stage: str = "calibrate", data: str = "a" * 64, options: Options | None = None, torch: str = "2.8") -> str:
    return stage_key(stage, inputs={"data": data}, options=options or Options(), versions={"torch": torch})


def keep(cache: StageCache, key: str, text: str = "ranges") -> Path:
    return cache.put(key, "calibrate", lambda folder: void((folder / "table.json").write_text(text)))


def void(_: object) -> None: ...


def test_the_key_follows_everything_that_decides_the_result() -> None:
    keys = {
        key_of(),
        key_of(stage="place"),
        key_of(data="b" * 64),
        key_of(options=Options(limit=9)),
        key_of(torch="2.9"),
    }
    assert len(keys) == 5
    assert key_of() == key_of()


def test_an_option_that_cannot_be_compared_is_refused() -> None:
    # repr() of such an object holds its address: the key would differ in every process, or worse, agree by chance.
    with pytest.raises(TypeError, match="canonical"):
        stage_key("x", inputs={}, options={"callback": object()}, versions={})


def test_a_result_is_found_again_by_another_process_object(tmp_path: Path) -> None:
    with StageCache(tmp_path) as cache:
        assert cache.get(key_of()) is None
        assert (keep(cache, key_of()) / "table.json").read_text() == "ranges"
    with StageCache(tmp_path) as cache:
        found = cache.get(key_of())
        assert found is not None
        assert (found / "table.json").read_text() == "ranges"


@pytest.mark.parametrize("damage", ["change", "truncate", "add", "remove", "record", "no record"])
def test_a_damaged_entry_is_dropped_and_made_again(tmp_path: Path, damage: str) -> None:
    with StageCache(tmp_path) as cache:
        folder = keep(cache, key_of())
    table, record = folder / "table.json", folder.parent / "entry.json"
    if damage == "change":
        table.write_text("rangeS")
    elif damage == "truncate":
        table.write_text("")
    elif damage == "add":
        (folder / "more").write_text("")
    elif damage == "remove":
        table.unlink()
    elif damage == "record":
        record.write_text(record.read_text()[:-10])
    else:
        record.unlink()
    with StageCache(tmp_path) as cache:
        assert cache.get(key_of()) is None
        assert not folder.exists()
        assert (keep(cache, key_of(), "again") / "table.json").read_text() == "again"


def test_an_entry_under_another_key_is_not_believed(tmp_path: Path) -> None:
    with StageCache(tmp_path) as cache:
        folder = keep(cache, key_of()).parent
        other = key_of(data="b" * 64)
        target = tmp_path / other[:2] / other
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
        assert cache.get(other) is None


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("stop")

    with StageCache(tmp_path) as cache:
        with pytest.raises(RuntimeError, match="stop"):
            cache.put(key_of(), "calibrate", fail)
        assert cache.get(key_of()) is None
        assert cache.entries() == ()
    assert not list(tmp_path.glob(".tmp-*"))


def test_pruning_removes_the_longest_unused_and_spares_what_is_in_use(tmp_path: Path) -> None:
    keys = [key_of(options=Options(limit=n)) for n in range(4)]
    with StageCache(tmp_path) as cache:
        for age, key in enumerate(keys):
            folder = keep(cache, key, "x" * 100)
            os.utime(folder.parent / "entry.json", (time.time() - 1000 * (4 - age),) * 2)
    with StageCache(tmp_path) as reader, StageCache(tmp_path) as cache:
        assert reader.get(keys[0]) is not None  # now the most recently used, and held
        os.utime(tmp_path / keys[0][:2] / keys[0] / "entry.json", (1, 1))
        removed = cache.prune(max_bytes=250)
        assert [entry.key for entry in removed] == keys[1:3]
        assert {entry.key for entry in cache.entries()} == {keys[0], keys[3]}
        assert [e.key for e in cache.prune(older_than_s=500)] == [keys[3]]
    with StageCache(tmp_path) as cache:
        assert [e.key for e in cache.prune(older_than_s=500)] == [keys[0]]


def test_two_processes_that_make_the_same_result_both_get_it(tmp_path: Path) -> None:
    with StageCache(tmp_path) as first, StageCache(tmp_path) as second:

        def write(folder: Path) -> None:
            keep(second, key_of())  # the other one is quicker
            (folder / "table.json").write_text("ranges")

        made = first.put(key_of(), "calibrate", write)
        assert (made / "table.json").read_text() == "ranges"
        assert second.get(key_of()) == made
    assert len(StageCache(tmp_path).entries()) == 1


def test_a_build_killed_in_the_middle_leaves_no_entry(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from radixrt.engines.cache.results import StageCache\n"
        "def write(folder):\n"
        "    (folder / 'half').write_text('half'); print('go', flush=True); time.sleep(60)\n"
        f"StageCache(Path(sys.argv[1])).put({key_of()!r}, 'calibrate', write)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"go\n"
        child.send_signal(signal.SIGKILL)
    with StageCache(tmp_path) as cache:
        assert cache.get(key_of()) is None
        (abandoned,) = tmp_path.glob(".tmp-*")
        os.utime(abandoned, (1, 1))
        cache.prune()
        assert not abandoned.exists()


# Where the disk takes nothing, a damaged entry cannot be removed: it must be made again all the same, elsewhere.
def test_a_damaged_entry_on_a_disk_that_refuses_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StageCache(tmp_path) as cache:
        folder = keep(cache, key_of())
    (folder / "table.json").write_text("rangeS")

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "read-only file system", str(self))

    monkeypatch.setattr(Path, "rename", refuse)
    with StageCache(tmp_path) as cache:
        assert cache.get(key_of()) is None


def test_what_could_not_be_removed_is_not_called_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StageCache(tmp_path) as cache:
        keep(cache, key_of())

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "permission denied", str(path))

    monkeypatch.setattr(stages.shutil, "rmtree", refuse)
    with StageCache(tmp_path) as cache:
        assert cache.prune(max_bytes=0) == ()
        assert len(cache.entries()) == 1


def test_pruning_everything_by_age_takes_unfinished_work_too(tmp_path: Path) -> None:
    with StageCache(tmp_path) as cache:
        state = cache.unfinished(key_of())
        state.write_text("half")
        os.utime(state, (time.time() - 60,) * 2)
        cache.prune(older_than_s=3600)
        assert state.exists()
        cache.prune(older_than_s=0)
        assert not state.exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        keep(StageCache(tmp_path / "file"), key_of())
