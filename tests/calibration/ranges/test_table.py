"""Protects calibration.json: whole or refused, of this graph and these images or refused, reused where it fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.table import CalibrationTable, read_table, write_table
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.errors import InputError
from radixrt.export.graph.hash import model_sha256
from tests.networks.residual import images, plain, se_block

DATA_HASH = "d" * 64


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    return calibrate(plain(), [{"input": images(3)}], CalibrationOptions(Method.ENTROPY), data_sha256=DATA_HASH)


@pytest.fixture
def path(table: CalibrationTable, tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    write_table(table, path)
    return path


def test_round_trip(table: CalibrationTable, path: Path) -> None:
    assert read_table(path, model=plain(), data_sha256=DATA_HASH) == table
    assert [p.name for p in path.parent.iterdir()] == ["calibration.json"], "a temporary file was left"


def test_truncated_at_any_place(path: Path) -> None:
    whole = path.read_text()
    for share in (0.0, 0.1, 0.5, 0.9, 0.99):
        path.write_text(whole[: int(len(whole) * share)])
        with pytest.raises(InputError, match="damaged"):
            read_table(path)


def test_one_digit_edited(path: Path) -> None:
    payload = json.loads(path.read_text())
    payload["table"]["tensors"][0]["amax"] *= 1.5
    path.write_text(json.dumps(payload))
    with pytest.raises(InputError, match="does not match its sha256"):
        read_table(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"table": 3}', '{"schema": 1, "model": {}}', "null"])
def test_foreign_json(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(InputError, match="not a calibration table of RadixRT"):
        read_table(path)


def test_binary_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="damaged"):
        read_table(tmp_path / "x")
    with pytest.raises(InputError, match="cannot read"):
        read_table(tmp_path / "missing.json")


@pytest.mark.parametrize("value", [-1.0, None, "wide", 1e999])
def test_a_range_that_is_no_range(path: Path, value: object) -> None:
    payload = json.loads(path.read_text())
    payload["table"]["tensors"][2]["amax"] = value
    path.write_text(json.dumps(payload))
    with pytest.raises(InputError, match=r"damaged at tensors\.2\.amax"):
        read_table(path)


def test_another_schema(path: Path) -> None:
    payload = json.loads(path.read_text())
    payload["table"]["schema_version"] = 99
    path.write_text(json.dumps(payload))
    with pytest.raises(InputError, match="schema 99"):
        read_table(path)


def test_stale_graph_and_stale_images(path: Path) -> None:
    with pytest.raises(InputError, match="another graph"):
        read_table(path, model=se_block())
    with pytest.raises(InputError, match="other images"):
        read_table(path, data_sha256="e" * 64)


def test_one_weight_makes_it_another_graph() -> None:
    first, second = plain(), plain()
    assert model_sha256(first) == model_sha256(second)
    weight = second.graph.initializers["a_conv.weight"]
    assert weight.const_value is not None
    changed = weight.const_value.numpy().copy()
    changed[0, 0, 0, 0] += 1e-3
    import onnx_ir as ir

    weight.const_value = ir.tensor(changed, name=weight.name)
    assert model_sha256(first) != model_sha256(second)


def test_metadata_is_no_part_of_the_graph() -> None:
    first, second = plain(), plain()
    second.graph[0].metadata_props["note"] = "hello"
    second.doc_string = "hello"
    assert model_sha256(first) == model_sha256(second)


def test_another_method_needs_no_images(table: CalibrationTable) -> None:
    fresh = calibrate(plain(), [{"input": images(3)}], CalibrationOptions(Method.MSE), data_sha256=DATA_HASH)
    assert table.method is not Method.MSE
    assert table.with_method(Method.MSE).tensors == fresh.tensors
    assert table.with_method(Method.MSE).method is Method.MSE


def test_a_folder_that_is_not_there(table: CalibrationTable, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_table(table, tmp_path / "nowhere" / "calibration.json")


def test_an_unknown_tensor(table: CalibrationTable) -> None:
    with pytest.raises(InputError, match="no range for 'ghost'"):
        table.amax("ghost")
