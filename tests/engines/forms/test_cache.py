from __future__ import annotations

from pathlib import Path

import pytest

from radixrt.engines.forms.cache import Answer, FormCache, Question, default_cache

QUESTION = Question(
    kind="grouped-conv",
    shape="3x3",
    forms=("keep", "dense"),
    precision="fp32",
    target="t",
    version="1",
    device="cpu",
)
DENSE_WINS = Answer(form="dense", why="2.00x as fast as keep")


def test_cache_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "forms.json"
    FormCache(path).put(QUESTION, DENSE_WINS)
    assert FormCache(path).get(QUESTION) == DENSE_WINS
    assert [p.name for p in path.parent.iterdir()] == ["forms.json"]


# An answer is true only where it was measured: another version, device, precision or shape is another question.
@pytest.mark.parametrize("field", ["kind", "shape", "precision", "target", "version", "device"])
def test_cache_tells_questions_apart(tmp_path: Path, field: str) -> None:
    cache = FormCache(tmp_path / "forms.json")
    cache.put(QUESTION, DENSE_WINS)
    assert cache.get(QUESTION.model_copy(update={field: "other"})) is None


# A cache is a convenience: whatever is wrong with the file, a build must go on, and mend it.
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema_version": 99, "entries": []}', '{"entries": [{"x": 1}]}', "\x00\xff"]
)
def test_damaged_cache_counts_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "forms.json"
    path.write_bytes(text.encode("latin-1"))
    cache = FormCache(path)
    assert cache.get(QUESTION) is None
    cache.put(QUESTION, DENSE_WINS)
    assert FormCache(path).get(QUESTION) == DENSE_WINS


# Two builds at once must not throw each other's answers away.
def test_cache_merges_with_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    first, second = FormCache(path), FormCache(path)
    other = QUESTION.model_copy(update={"shape": "5x5"})
    first.put(QUESTION, DENSE_WINS)
    second.put(other, DENSE_WINS)
    both = FormCache(path)
    assert both.get(QUESTION) and both.get(other)


def test_unsettled_answers_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    cache = FormCache(path)
    cache.put(QUESTION, DENSE_WINS.model_copy(update={"settled": False}))
    assert cache.get(QUESTION) is not None
    assert FormCache(path).get(QUESTION) is None


def test_unwritable_cache_does_not_fail_the_build(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = FormCache(blocked / "forms.json")
    cache.put(QUESTION, DENSE_WINS)
    assert cache.get(QUESTION) == DENSE_WINS


def test_default_cache_follows_the_users_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "radixrt" / "forms.json"
