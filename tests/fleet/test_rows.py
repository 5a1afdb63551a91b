"""Protects what a recipe's lists become: every combination once, with a name, and refusals before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from radixrt.errors import InputError
from radixrt.fields import fill
from radixrt.fleet.options import SweepOptions
from radixrt.fleet.rows import rows_of
from radixrt.recipe import filled, from_file
from radixrt.remote.device import Device
from tests.engines.bundle.bundles import tiny_network


def names(**given: Any) -> list[str]:
    return [row.name for row in rows_of(fill(SweepOptions, given))]


def test_lists_are_every_combination_network_by_network() -> None:
    found = names(model=["senet-nano-elpv", "sknet-nano-elpv"], precision="fp32,int8", target="onnxruntime, openvino")
    assert len(found) == 8 and found[0] == "senet-nano-elpv-fp32-onnxruntime"
    assert [name.startswith("senet") for name in found] == [True] * 4 + [False] * 4


def test_only_int8_has_methods_and_a_list_of_one_is_in_no_name() -> None:
    found = names(precision=["fp16", "int8"], target="openvino", method=["minmax", "mse"], batch=[1, "1..8"])
    assert sorted(found) == [
        "resnest-nano-elpv-fp16-openvino-batch1",
        "resnest-nano-elpv-fp16-openvino-batch1to8",
        "resnest-nano-elpv-int8-openvino-minmax-batch1",
        "resnest-nano-elpv-int8-openvino-minmax-batch1to8",
        "resnest-nano-elpv-int8-openvino-mse-batch1",
        "resnest-nano-elpv-int8-openvino-mse-batch1to8",
    ]


def test_what_is_excluded_is_left_out() -> None:
    both = {"precision": "fp32,int8", "target": "onnxruntime,openvino"}
    for without in ("precision=int8,target=openvino", [{"precision": "int8", "target": ["openvino"]}]):
        assert "resnest-nano-elpv-int8-openvino" not in names(**both, exclude=without)
        assert len(names(**both, exclude=without)) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"precision": "fp32,int4"}, "unknown precision 'int4'"),
        ({"target": "fastest"}, "radixrt choose"),
        ({"precision": "auto"}, "radixrt choose"),
        ({"exclude": ["precison=int8"]}, r"exclude has no precison: did you mean precision\?"),
        ({"exclude": ["precision=int-8"]}, "unknown precision 'int-8'"),
        ({"exclude": [{"target": "openvno"}]}, "did you mean openvino"),
        ({"exclude": ["model=senet-nano"], "model": ["senet-nano-elpv"]}, "did you mean senet-nano-elpv"),
        ({"exclude": ["device=orn"]}, "exclude names the device orn"),
        ({"exclude": ["precision"]}, "gives precision no value"),
        ({"exclude": [{}]}, "exclude names no combination"),
        ({"model": [{"name": "x"}]}, "no model beside name"),
        ({"model": [{"model": "resnest50", "name": "../x"}]}, "cannot be called '../x'"),
        ({"model": [{"model": "resnest50", "name": 5}]}, "cannot be called 5"),
        ({"model": [{"model": "resnest50", "name": "x" * 250}]}, "too long for a folder"),
        ({"model": [{"model": "resnest50", "output": "x"}]}, "output is of the whole sweep"),
        ({"model": [{"model": ["resnest50"]}]}, "name it by text"),
        ({"model": ["one.toml", "resnest50"]}, "one.toml is a recipe beside other networks"),
        ({"model": []}, "model is empty"),
        ({"precision": []}, "precision is empty"),
        ({"target": ""}, "target is empty"),
        ({"sign_key": "nowhere"}, "nowhere"),
        ({"precision": "int8", "exclude": "precision=int8"}, "nothing is left"),
        ({"model": ["a.onnx"]}, "no ONNX file at a.onnx"),
        ({"data": "nowhere"}, "there is no nowhere, which data names"),
        ({"target": "openvino,onnxruntime", "dla_core": 0}, "cannot be: .*exclude"),
        ({"model": [{"model": "resnest50", "dta": "x"}]}, "unknown option dta: did you mean data"),
    ],
)
def test_what_cannot_be_is_one_sentence_before_anything_starts(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        names(**given)
    assert "\n" not in str(caught.value)


def test_networks_have_options_of_their_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        tiny_network(tmp_path / name / "net.onnx")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'target = "onnxruntime"\nprecision = ["fp32"]\n'
        '[[model]]\nmodel = "one/net.onnx"\ndata = "one"\n[model.preprocess]\nmean = [0.5]\n'
        '[[model]]\nmodel = "two/net.onnx"\nname = "second"\n[[model]]\nmodel = "senet-nano-elpv"\n'
    )
    left = recipe.read_text()
    recipe.write_text('exclude = [{ model = "one/net.onnx" }, { model = "second" }]\n' + left)
    assert [row.name for row in rows_of(from_file(SweepOptions, recipe))] == ["senet-nano-elpv-fp32-onnxruntime"]
    recipe.write_text(left)
    first, second, third = rows_of(from_file(SweepOptions, recipe))
    assert [one.name for one in (first, second, third)] == [
        "net-fp32-onnxruntime", "second-fp32-onnxruntime", "senet-nano-elpv-fp32-onnxruntime",
    ]  # fmt: skip
    assert first.options.data == str(tmp_path / "one") and first.options.mean == [0.5] and third.options.mean is None
    assert {one.option for one in first.inputs} == {"model", "data"}
    text = recipe.read_text().replace('name = "second"\n', "")
    recipe.write_text(text)
    with pytest.raises(InputError, match="two rows would be called net-fp32-onnxruntime"):
        rows_of(from_file(SweepOptions, recipe))


def test_networks_have_lists_of_their_own() -> None:
    own = {"model": "senet-nano-elpv", "precision": ["fp16", "FP16"]}
    found = names(model=[own, "sknet-nano-elpv"], precision="fp32,int8", target="openvino")
    assert found == ["senet-nano-elpv-fp16-openvino", "sknet-nano-elpv-fp32-openvino", "sknet-nano-elpv-int8-openvino"]


def test_a_row_is_the_same_wherever_its_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for place in ("one", "two words"):
        (tmp_path / place / "data").mkdir(parents=True)
        tiny_network(tmp_path / place / "net.onnx")
        (tmp_path / place / "recipe.toml").write_text('model = "net.onnx"\ntarget = "onnxruntime"\ndata = "data"\n')
        for here, recipe in ((place, "recipe.toml"), (f"{place}/data", "../recipe.toml"), ("", f"{place}/recipe.toml")):
            monkeypatch.chdir(tmp_path / here)
            keys.add(rows_of(from_file(SweepOptions, Path(recipe)))[0].key)
    assert len(keys) == 1


def test_a_row_is_another_once_its_inputs_or_options_are(tmp_path: Path) -> None:
    tiny_network(tmp_path / "net.onnx")
    given = {"model": [str(tmp_path / "net.onnx")], "target": "onnxruntime"}

    def key(**more: Any) -> str:
        return rows_of(filled(SweepOptions, given | more))[0].key

    first = key()
    assert key() == first != key(test_images=4)
    (tmp_path / "net.onnx").write_bytes((tmp_path / "net.onnx").read_bytes() + b"\0")
    assert key() != first


def test_devices_take_their_targets_from_this_machine() -> None:
    devices = [Device(name="orin", ssh="orin", target="tensorrt"), Device(name="pi", ssh="pi")]
    found = names(target="tensorrt,onnxruntime", precision="fp16", on=devices)
    assert [name.removeprefix("resnest-nano-elpv-fp16-") for name in found] == [
        "tensorrt-orin", "tensorrt-pi", "onnxruntime-pi",
    ]  # fmt: skip


def test_the_live_table_shows_what_runs_where_more_runs_than_fits() -> None:
    from radixrt.cli.fleet import MOST_ROWS, table
    from radixrt.fleet.schema import SweepRow
    from radixrt.fleet.sweep import Progress

    names = [f"row{i}" for i in range(2 * MOST_ROWS)]
    rows = {
        name: SweepRow(name=name, key=name, model="m", precision="fp32", target="t", batch="1", state="failed")
        for name in names
    }
    shown = table(Progress(rows, running=names[MOST_ROWS - 2 :]))
    assert shown.row_count == MOST_ROWS + 2
    assert str(next(iter(shown.columns[1].cells))) == "running", "a short terminal cuts the table below"
