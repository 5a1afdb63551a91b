"""CTC's best path, and the lists of characters that readers come with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from radixrt.engines.bundle.answers import read_text
from radixrt.errors import InputError
from radixrt.validate.answers.ctc import alphabet, parse_characters, read_characters, steps_first


def steps(*best: int, classes: int = 4) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[list(best)]


def test_repeats_are_one_letter_and_blanks_part_letters() -> None:
    first, last = alphabet("abc", 4), alphabet(("a", "b", "c", ""), 4)
    assert first == ("", "a", "b", "c") and last == ("a", "b", "c", "")
    assert read_text(steps(0, 1, 1, 0, 1, 2, 2, 3, 0), first) == "aabc"
    assert read_text(steps(3, 0, 0, 3, 0, 1, 1, 2, 3), last) == "aabc"
    assert read_text(steps(0, 0), first) == ""


def test_paddles_list_leaves_out_the_blank_and_the_space() -> None:
    assert alphabet("ab", 4) == ("", "a", "b", " ")
    assert read_text(steps(1, 3, 2), ("", "a", "b", " ")) == "a b"
    assert alphabet(("blank", "a", "b", "c"), 4) == ("", "a", "b", "c")
    said = alphabet("ab", 9)
    assert isinstance(said, str) and "2 characters" in said and "9 classes" in said


def test_a_step_that_is_not_finite_says_nothing() -> None:
    wild = steps(1, 0, 2)
    wild[2] = np.nan
    assert read_text(wild, ("", "a", "b", "c")) == "a"


def test_steps_come_first_or_second() -> None:
    assert steps_first(np.zeros((26, 2, 37)), 2).shape == (2, 26, 37)
    assert steps_first(np.zeros((2, 26, 37)), 2).shape == (2, 26, 37)


def test_a_list_keeps_spaces_and_odd_characters(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\n \n\u2028\n'\n", encoding="utf-8")
    assert parse_characters(read_characters(tmp_path / "list.txt")) == ("a", " ", "\u2028", "'")
    assert parse_characters("a\r\nb") == ("a", "b")
    assert parse_characters("") == ()
    for bad in (b"", b"\xff\xfe"):
        (tmp_path / "bad.txt").write_bytes(bad)
        with pytest.raises(InputError, match=r"bad\.txt"):
            read_characters(tmp_path / "bad.txt")
    with pytest.raises(InputError, match=r"absent\.txt"):
        read_characters(tmp_path / "absent.txt")
