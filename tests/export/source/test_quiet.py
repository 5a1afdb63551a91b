"""Protects whoever calls RadixRT: what libraries say is dropped, and all other logging goes on."""

from __future__ import annotations

import logging

import pytest

from radixrt.export.source.quiet import quiet


def test_only_the_named_loggers_are_silenced_and_put_back(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("noisy.inner").setLevel(logging.DEBUG)
    with caplog.at_level(logging.INFO), quiet("noisy"):
        for name in ("noisy", "noisy.inner", "noisy.made.meanwhile", "noisybody", "application"):
            logging.getLogger(name).critical("%s speaks", name)
        assert not logging.root.manager.disable
    assert caplog.messages == ["noisybody speaks", "application speaks"]
    assert logging.getLogger("noisy").level == logging.NOTSET
    assert logging.getLogger("noisy.inner").level == logging.DEBUG


def test_they_are_put_back_after_an_error_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), quiet("noisy"):
        print("progress of a library")
        raise KeyError
    assert logging.getLogger("noisy").level == logging.NOTSET and capsys.readouterr().out == ""
