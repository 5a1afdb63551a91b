"""Protects the one way to keep a result: made once, taken again as it was, and told apart by all that decides it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from radixrt.errors import InputError
from radixrt.reuse import Kept, Reuse, Step, as_json


@dataclass(frozen=True)
class Answer:
    """What a step makes here."""

    value: float


STEP = Step("answer", as_json(dict[str, Answer]), inputs={"graph": "a"}, options={"batch": 1})


def make() -> dict[str, Answer]:
    return {"x": Answer(0.1)}


def unwanted() -> dict[str, Answer]:
    raise AssertionError("this was made before")


def test_a_result_is_made_once_and_taken_again_by_the_next_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Reuse(root=tmp_path) as reuse:
        assert reuse.step(STEP, make) == Kept(make())
        assert reuse.step(STEP, unwanted) == Kept(make(), ("answer",))
    with Reuse(root=tmp_path) as reuse, caplog.at_level(logging.DEBUG, logger="radixrt"):
        assert reuse.step(STEP, unwanted).reused == ("answer",)
    assert "answer: taken from" in caplog.text


@pytest.mark.parametrize(
    "other",
    [replace(STEP, name="question"), replace(STEP, inputs={"graph": "b"}), replace(STEP, options={"batch": 2})],
    ids=["name", "inputs", "options"],
)
def test_whatever_decides_a_result_tells_it_apart(tmp_path: Path, other: Step[dict[str, Answer]]) -> None:
    with Reuse(root=tmp_path) as reuse:
        reuse.step(STEP, make)
        assert reuse.step(other, make).reused == ()


def test_a_fresh_run_takes_nothing_from_earlier_ones_and_leaves_nothing(tmp_path: Path) -> None:
    with Reuse(root=tmp_path) as reuse:
        reuse.step(STEP, make)
    with Reuse(root=tmp_path, fresh=True) as reuse:
        assert reuse.step(STEP, lambda: {"x": Answer(0.2)}) == Kept({"x": Answer(0.2)})
        assert reuse.step(STEP, unwanted).reused == ("answer",)
    with Reuse(root=tmp_path) as reuse:
        assert reuse.step(STEP, unwanted).value == make()


def test_what_fails_is_not_kept(tmp_path: Path) -> None:
    def refused() -> dict[str, Answer]:
        raise InputError("no")

    with Reuse(root=tmp_path) as reuse:
        with pytest.raises(InputError):
            reuse.step(STEP, refused)
        assert reuse.step(STEP, make).reused == ()
