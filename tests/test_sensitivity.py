"""Protects ``radixrt sensitivity``: its numbers are the measured ones in every form that it prints."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from radixrt.calibration.sensitivity import LayerSensitivity
from radixrt.validate.sensitivity_page import render_sensitivity
from tests.cli_runner import radixrt

ROWS = (
    LayerSensitivity("n1", "layer1.<b>conv", "Conv", 21.34, 5_000_000, 0.25),
    LayerSensitivity("n2", "fc", "Gemm", math.inf, 1_000, 0.0),
)


def test_the_page_shows_every_layer_and_loads_nothing() -> None:
    page = render_sensitivity(ROWS, title="Sensitivity of a & b", method="One layer at a time.")
    assert "21.3" in page and "exact" in page and "25.0" in page
    assert "layer1.&lt;b&gt;conv" in page and "layer1.<b>conv" not in page
    assert "a &amp; b" in page
    assert "http://" not in page.split("plotly-gzip")[0] and "src=" not in page


@pytest.mark.slow
def test_the_command_lists_the_most_sensitive_first(tmp_path: Path) -> None:
    words = ("sensitivity", "senet-nano-elpv", "--calibration-images", "16", "--images", "4")
    done = radixrt(*words, "--json", tmp_path / "s.json", "--html", tmp_path / "s.html", "--top", "3")
    assert done.code == 0, done.err
    layers = json.loads((tmp_path / "s.json").read_text())["layers"]
    assert len(layers) > 10
    decibels = [layer["sqnr_db"] for layer in layers]
    # Of all groups of four calibration images the worst gives the first layer 33 dB.
    assert decibels == sorted(decibels) and 25 < decibels[0] < 60
    assert sum(layer["macs_share"] for layer in layers) == pytest.approx(1)
    assert layers[0]["module"] in done.out and f"{decibels[0]:.1f}" in done.out
    assert f"{len(layers) - 3} less sensitive layers are not shown" in done.out
    assert layers[-1]["module"] in (tmp_path / "s.html").read_text()
