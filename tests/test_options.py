"""Protects that the command line and the Python calls are one: derived from the same objects, and filled from files."""

from __future__ import annotations

import inspect
import logging
from dataclasses import fields
from typing import Any

import pytest

import radixrt as rt
from radixrt.errors import InputError
from radixrt.fields import fill, help_of, words
from radixrt.options import AnswerOptions, CompileOptions, ShowOptions, ValidateOptions
from radixrt.request import EngineRequest
from radixrt.validate.gates import GateLimits
from tests.cli_runner import radixrt


def of_command(name: str) -> dict[str, Any]:
    """The options of a command with their defaults, by the name that Python gives them."""
    from radixrt.cli import app

    found = app[name].assemble_argument_collection()
    return {one.field_info.name: one.field_info.default for one in found}


@pytest.mark.parametrize(("command", "call"), [("engine", rt.compile), ("validate", rt.validate)])
def test_python_takes_what_the_command_takes(command: str, call: Any) -> None:
    python = inspect.signature(call).parameters
    typed = of_command(command)
    # On the command line progress is always shown; a Python call returns what others have printed.
    typed_only = {field.name for field in fields(AnswerOptions)}
    assert set(python) - {field.name for field in fields(ShowOptions)} == set(typed) - typed_only and len(typed) > 20
    for name, default in typed.items():
        if name in typed_only:
            continue
        theirs = python[name].default
        if theirs is inspect.Parameter.empty:
            continue
        meant = words(default or ()) if isinstance(theirs, tuple) or name == "target" else default
        assert meant == (words(theirs) if name == "target" else theirs) or str(default) == str(theirs), name


@pytest.mark.parametrize("options", [CompileOptions, ValidateOptions])
def test_every_option_says_what_it_is(options: type) -> None:
    assert all(help_of(options, field.name).endswith((".", "...", ".)", "1,2,4,8.")) for field in fields(options))


def test_what_python_gives_is_what_the_command_line_gives() -> None:
    limits = GateLimits(max_drop=0.5, min_cosine=0.9)
    asked = fill(
        CompileOptions, {"target": "openvino, onnxruntime", "batch_sweep": "4,1", "gates": limits, "max_drop": 2}
    )
    request = EngineRequest.of(asked)
    assert request.targets == ("openvino", "onnxruntime") and request.rivals.sweep == (1, 4)
    assert request.gates == GateLimits(max_drop=2, min_cosine=0.9)
    again = fill(CompileOptions, {"target": ["openvino", "onnxruntime"], "batch_sweep": [1, 4], "batch": "1..4"})
    assert EngineRequest.of(again).targets == request.targets
    assert EngineRequest.of(again).batch.max == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"presicion": "int8"}, "unknown option presicion: did you mean precision"),
        ({"precision": "int4"}, "unknown precision 'int4'"),
        ({"threads": -2}, "threads is -2: it must be greater"),
        ({"gates": GateLimits(max_drop=-3)}, "gates is -3: it must be greater"),
        ({"crop_pct": "wide"}, "crop_pct is 'wide'"),
    ],
)
def test_what_cannot_be_is_one_sentence(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        rt.compile("senet-nano-elpv", **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-m", "A", "-m", "B"), "-m specified multiple times"),
        (("--batch", "1", "--batch", "2"), "--batch specified multiple times"),
        (("A", "--model", "B"), "A is one argument too many"),
        (("A", "B"), "B is one argument too many"),
        (("A", "--batchs", "4"), "Did you mean --batch"),
        (("A", "--threads", "-2"), "--threads is -2"),
        (("A", "--seed", "1.7"), "1.7"),
        (("A", "--precision", "int4"), "fp32"),
    ],
)
def test_bad_use_is_one_sentence_and_exit_2(arguments: tuple[str, ...], said: str) -> None:
    done = radixrt("engine", *arguments)
    assert done.code == 2 and said in done.sentence and done.err.count("\n") == 1 and not done.out


def test_the_model_is_given_by_position_or_by_name() -> None:
    for words_given in (("resnest5O",), ("--model", "resnest5O"), ("-m", "resnest5O")):
        done = radixrt("engine", *words_given)
        assert done.code == 2 and "did you mean resnest50" in done.sentence


def test_help_is_grouped_and_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = radixrt("engine", "--help")
    assert done.code == 0 and "Limits that the engine must keep" in done.out and "What is timed" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_the_library_logs_to_one_name_and_shows_nothing_by_itself() -> None:
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("radixrt").handlers)
    assert set(dir(rt)) == {*rt.__all__, "errors"}
