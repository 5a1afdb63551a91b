"""Protects that a value nobody gave is known as an assumption, field by field, until somebody gives it."""

from __future__ import annotations

import json
from pathlib import Path

from radixrt.calibration.data.preparation import Origin, Preparation
from radixrt.calibration.data.preprocess import Preprocess

CONFIG = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.2,) * 3}


def origins(preparation: Preparation) -> dict[str, Origin]:
    return {field.name: field.origin for field in preparation.fields}


def test_what_nobody_says_is_assumed() -> None:
    found = Preparation.of_network(CONFIG, ("input_size",), "net.onnx")
    assert found.assumed == ("mean", "std", "crop_pct", "interpolation")
    assert found.fields[0].where == "net.onnx" and found.fields[0].value == (3, 64, 64)


def test_each_field_has_the_source_that_decided_it(tmp_path: Path) -> None:
    (tmp_path / "best.json").write_text(json.dumps({"mean": [0.1, 0.1, 0.1], "std": [0.3, 0.3, 0.3]}))
    found = Preparation.of_network(CONFIG, ("input_size", "mean"), "timm:x").beside(tmp_path / "best.pth")
    found = found.with_options(std="0.4", crop_pct=0.9, mean=None)
    assert origins(found) == {
        "input_size": Origin.NETWORK,
        "mean": Origin.JSON,
        "std": Origin.OPTION,
        "crop_pct": Origin.OPTION,
        # Whoever says how much is cropped says that it is cropped.
        "crop_mode": Origin.OPTION,
        "interpolation": Origin.ASSUMED,
    }
    assert found.values.std == (0.4,) * 3 and found.assumed == ("interpolation",)


def test_a_bundle_says_what_nobody_else_does_and_no_more_than_it_was_told() -> None:
    found = Preparation.of_network(CONFIG, (), "net.py:build").with_options(mean="0.4")
    recorded = Preprocess(input_size=(3, 32, 32), mean=(0.1,) * 3, std=(0.3,) * 3, crop_pct=1.0)
    found = found.with_bundle(recorded, ("interpolation",), "bundle")
    assert found.values.mean == (0.4,) * 3 and found.values.std == (0.3,) * 3
    assert found.values.input_size == (3, 32, 32) and found.values.crop_pct == 1.0
    assert found.assumed == ("interpolation",) and origins(found)["std"] is Origin.BUNDLE
