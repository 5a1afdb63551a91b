"""Protects what an application hears of a build: one logger that it sets, and nothing that it did not ask for."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import radixrt as rt
from radixrt.errors import GateError
from radixrt.progress import Stages, shown
from tests.photographs import write_photographs


def test_stages_are_numbered_as_they_come_and_logged_with_their_time(caplog: pytest.LogCaptureFixture) -> None:
    stages = Stages()
    with caplog.at_level(logging.INFO, logger="radixrt"):
        for name in ("Loading", "Capturing [weights]"):
            with stages.stage(name):
                assert list(stages.track([1, 2], 2)) == [1, 2]
        stages.note("Continuing.")
    assert [message.rpartition(" (")[0] or message for message in caplog.messages] == [
        "[1] Loading",
        "[2] Capturing [weights]",
        "Continuing.",
    ]


def test_a_console_shows_them_only_while_it_is_asked_to() -> None:
    said, logger = io.StringIO(), logging.getLogger("radixrt")
    before = logger.level, list(logger.handlers)
    with shown(Console(file=said)), Stages().stage("Loading"):
        pass
    with Stages().stage("Capturing"):
        pass
    assert "[1] Loading (" in said.getvalue() and "Capturing" not in said.getvalue()
    assert (logger.level, logger.handlers) == before


@pytest.mark.slow
def test_compiling_leaves_the_caller_s_logging_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch = pytest.importorskip("torch")

    class Speaks(torch.nn.Module):  # type: ignore[name-defined, misc]
        """An application's network, which logs while RadixRT captures it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)

        def forward(self, images: Any) -> Any:
            logging.getLogger("application").critical("captured")
            return self.conv(images).mean((2, 3))

    (tmp_path / "data").mkdir()
    write_photographs(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Random weights may miss a gate: that is not what this is about.
    with caplog.at_level(logging.INFO, logger="radixrt"), contextlib.suppress(GateError):
        rt.compile(
            Speaks(),
            precision="fp32",
            target="onnxruntime",
            data=tmp_path / "data",
            input_size=(3, 32, 32),
            output=tmp_path / "bundle",
        )
    heard = {record.name for record in caplog.records}
    assert heard == {"application", "radixrt"} and not logging.root.manager.disable
    assert any("Capturing the graph" in message for message in caplog.messages)
    assert capsys.readouterr() == ("", "")
