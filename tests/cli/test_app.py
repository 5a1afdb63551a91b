"""Protects what holds for the program as a whole."""

from __future__ import annotations

from importlib.metadata import version

from tests.cli_runner import radixrt


def test_it_says_which_version_it_is() -> None:
    done = radixrt("--version")
    assert (done.code, done.out.strip()) == (0, version("radixrt"))
