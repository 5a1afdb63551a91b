"""Protects ``radixrt sensitivity``: its numbers are the measured ones in every form that it prints."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from radixrt.calibration.recovery.sensitivity import LayerSensitivity
from radixrt.validate.report.sensitivity import render_sensitivity
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs

ROWS = (
    LayerSensitivity("n1", "layer1.<b>conv", "Conv", 21.34, 5_000_000, 0.25),
    LayerSensitivity("n2", "fc", "Gemm", math.inf, 1_000, 0.0),
)


def test_the_page_shows_every_layer_and_loads_nothing() -> None:
    page = render_sensitivity(ROWS, title="Sensitivity of a & b", method="One layer at a time.")
    assert "21.3" in page and "exact" in page and "25.0" in page
    assert "layer1.&lt;b&gt;conv" in page and "layer1.<b>conv" not in page
    assert "a &amp; b" in page
    assert "not measured" in page and "share of the INT8 multiplications" in page
    timed = tuple(replace(row, latency_gain_ms=gain) for row, gain in zip(ROWS, (0.125, -0.5), strict=True))
    page = render_sensitivity(timed, title="Sensitivity", method="One layer at a time.")
    assert "+0.125" in page and "-0.500" in page and "what INT8 saves there (ms)" in page
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
    # The profilers of both engines were read: the layers with most work take most time.
    assert all(isinstance(layer["latency_gain_ms"], float) for layer in layers)
    assert sum(layer["latency_gain_ms"] != 0 for layer in layers) > len(layers) / 2


@pytest.mark.slow
def test_a_bundle_tells_its_network_target_and_preprocessing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_photographs(tmp_path / "data")
    tiny_network(tmp_path / "tiny.onnx", "batch")
    words = ("--precision", "fp32", "--target", "openvino", "--data", data, "--input-size", "3,32,32", "--mean", "0.3")
    assert radixrt("engine", "--model", tmp_path / "tiny.onnx", *words, "-o", tmp_path / "bundle").code == 0
    one = radixrt("sensitivity", tmp_path / "bundle", "--data", data, "--json", tmp_path / "one.json")
    assert one.code == 0, one.err
    shared = (*words[4:], "--target", "openvino", "--json", tmp_path / "two.json")
    assert radixrt("sensitivity", tmp_path / "tiny.onnx", *shared).code == 0
    found, asked = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert found["target"] == "openvino"
    assert [row["sqnr_db"] for row in found["layers"]] == [row["sqnr_db"] for row in asked["layers"]]
