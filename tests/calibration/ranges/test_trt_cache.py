"""Protects the text cache of TensorRT <= 10: what we write, it reads; what it writes, we read."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.ranges.trt_cache import export_cache, import_cache
from radixrt.errors import InputError
from tests.networks.residual import images, plain


@pytest.fixture(scope="module")
def table() -> CalibrationTable:
    return calibrate(plain(), [{"input": images(3)}])


def test_round_trip_keeps_every_scale_to_the_bit(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "cache.txt"
    path.write_text(export_cache(table, "8.5.2"))
    again = import_cache(path, table.with_amax({t.name: 1.0 for t in table.tensors}))
    assert export_cache(again, "8.5.2") == path.read_text()


def test_format_is_tensorrts(table: CalibrationTable) -> None:
    lines = export_cache(table.with_amax({"input": 127.0}), "8.5.2").splitlines()
    assert lines[0] == "TRT-8502-EntropyCalibration2"
    assert lines[1] == "input: 3f800000"  # 1.0, big-endian
    assert export_cache(table, "10.3.0").startswith("TRT-100300-")


def test_tensors_that_share_a_range_get_their_line(table: CalibrationTable) -> None:
    lines = dict(line.split(": ") for line in export_cache(table, "8502", model=plain()).splitlines()[1:])
    assert lines["pool"] == lines["out"]


def test_a_cache_that_tensorrt_wrote(table: CalibrationTable, tmp_path: Path) -> None:
    # TensorRT drops leading zeros of the hex number, and its names may hold spaces.
    path = tmp_path / "cache.txt"
    small = struct.pack(">f", 1e-38 * 1.2).hex().lstrip("0")
    path.write_text(f"TRT-8501-EntropyCalibration2\ninput: 3c010a14\n(Unnamed Layer* 3) [Constant]_output: {small}\n")
    got = import_cache(path, table)
    assert got.amax("input") == pytest.approx(struct.unpack(">f", bytes.fromhex("3c010a14"))[0] * 127)
    assert got.amax("out") == table.amax("out")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no TensorRT calibration cache"),
        ("hello\ninput: 3c010a14\n", "no TensorRT calibration cache"),
        ("TRT-8501-EntropyCalibration2\ninput 3c010a14\n", "damaged at line 2"),
        ("TRT-8501-EntropyCalibration2\ninput: 7fc00000\n", "damaged at line 2"),
        ("TRT-8501-EntropyCalibration2\ninput: 00000000\n", "damaged at line 2"),
        ("TRT-8501-EntropyCalibration2\nelsewhere: 3c010a14\n", "another graph"),
    ],
)
def test_what_is_refused(table: CalibrationTable, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "cache.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        import_cache(path, table)


def test_a_version_that_is_none(table: CalibrationTable) -> None:
    with pytest.raises(InputError, match="no version"):
        export_cache(table, "latest")
