"""Preprocessing is timm's unless the user says otherwise; nonsense is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm

from radixrt.calibration.data.preparation import Preparation
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.errors import InputError

BASE = Preprocess(input_size=(3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["resnest50d", "seresnet50", "skresnet18", "seresnext26d_32x4d"])
def test_takes_what_timm_resolves(name: str) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    preprocess = Preprocess.from_config(config)
    assert {field: getattr(preprocess, field) for field in Preprocess.model_fields} == {
        **config,
        "layout": "nchw",
        "dtype": "float32",
    }


def test_text_overrides_win() -> None:
    changed = BASE.with_overrides(
        input_size="3,128,96", mean="0.5", std="0.1,0.2,0.3", crop_pct=1.0, interpolation="box"
    )
    assert changed.input_size == (3, 128, 96)
    assert changed.mean == (0.5, 0.5, 0.5)
    assert changed.std == (0.1, 0.2, 0.3)
    assert (changed.crop_pct, changed.interpolation, changed.crop_mode) == (1.0, "box", "center")
    assert BASE.with_overrides() == BASE


def test_one_channel_takes_the_average_of_three() -> None:
    gray = BASE.with_overrides(input_size="1,64,64")
    assert gray.mean == (pytest.approx(sum(BASE.mean) / 3),)
    assert len(gray.std) == 1
    assert Preprocess.from_config({**BASE.model_dump(), "input_size": (1, 64, 64)}).mean == gray.mean
    again = gray.with_overrides(input_size="3,64,64")
    assert again.mean == gray.mean * 3


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"mean": "123.7,116.3,103.5"}, "divide by 255"),
        ({"input_size": "3,128"}, "bad input_size 3,128: give channels"),
        ({"input_size": "128"}, "bad input_size 128: give channels"),
        ({"input_size": "4,128,128"}, "has 4 channels, and images have 1 or 3: give arrays"),
        ({"input_size": "3,0,128"}, "0 x 128"),
        ({"input_size": "3,99999,128"}, "99999"),
        ({"input_size": "wide"}, "input size 'wide'"),
        ({"mean": "0.5,0.5"}, "2 values for 3 channels"),
        ({"mean": "nan"}, "finite"),
        ({"std": "0"}, "positive"),
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"crop_pct": float("nan")}, "crop_pct"),
        ({"crop_mode": "stretch"}, "crop_mode"),
        ({"interpolation": "random"}, "interpolation"),
    ],
)
def test_nonsense_is_refused(overrides: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        BASE.with_overrides(**overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nesting", [None, "data_config", "pretrained_cfg"])
def test_a_json_file_beside_the_checkpoint_is_applied(tmp_path: Path, nesting: str | None) -> None:
    fields: dict[str, Any] = {"input_size": [3, 96, 96], "crop_pct": 1.0}
    content = {"labels": ["a"], **({nesting: fields} if nesting else fields)}
    (tmp_path / "best.json").write_text(json.dumps(content))
    told = Preparation(BASE, {})
    beside = told.beside(tmp_path / "best.pth").values
    assert (beside.input_size, beside.crop_pct, beside.mean) == ((3, 96, 96), 1.0, BASE.mean)
    assert told.beside(tmp_path / "other.pth") == told
    (tmp_path / "best.json").write_text(json.dumps({**content, "mean": [0.5, 0.5, 0.5]}))
    assert told.beside(tmp_path / "best.pth").values == beside.with_overrides(mean=(0.5, 0.5, 0.5))


BAD = ["[1]", "{", "[" * 100_000, '{"mean": "x"}', '{"input_size": 3}', '{"crop_mode": []}', "\ud800"]


@pytest.mark.parametrize("content", BAD)
def test_a_bad_json_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "best.json"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(InputError, match=r"best\.json"):
        BASE.with_file(path)


def test_json_and_back() -> None:
    assert Preprocess.model_validate_json(BASE.model_dump_json()) == BASE
