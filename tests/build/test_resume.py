"""An interrupted calibration goes on where it stopped, says so, and chooses the ranges of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radixrt.calibration.data.batch import Batch
from radixrt.calibration.data.images import ImageList
from radixrt.calibration.ranges import collect
from radixrt.calibration.ranges.table import CalibrationTable, read_table
from tests.cli_runner import Done, radixrt
from tests.export.reader.test_onnx_file import save, tiny

IMAGES = 40
STOP_AFTER = 16


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photographs").mkdir()
    random = np.random.default_rng(0)
    for index in range(IMAGES):
        pixels = random.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{index:02d}.png")
    save(tiny(batch=1), tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def calibrate(work: Path, name: str) -> Done:
    return radixrt("calibrate", work / "model.onnx", "--data", work / "photographs", "-o", work / name)


def essence(path: Path) -> CalibrationTable:
    return read_table(path).model_copy(update={"seconds": 0.0, "peak_bytes": 0})


def unfinished(work: Path) -> list[Path]:
    return list((work / "cache").rglob("*.unfinished*"))


@pytest.mark.parametrize(
    ("stop", "code", "every_s"),
    [(KeyboardInterrupt(), 130, 1e9), (SystemExit(143), 143, 1e9), (OSError("the power is gone"), None, 0.0)],
    ids=["Ctrl-C", "SIGTERM", "no chance to tidy up"],
)
def test_an_interrupted_calibration_goes_on(
    work: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, code: int | None, every_s: float
) -> None:
    whole = ImageList.batches

    def cut_short(self: ImageList, size: int, limit: int | None = None) -> Iterator[Batch]:
        for index, batch in enumerate(whole(self, size, limit)):
            if index * size == STOP_AFTER:
                raise stop
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(ImageList, "batches", cut_short)
        patch.setattr(collect, "_SAVE_EVERY_S", every_s)
        if code is None:
            with pytest.raises(OSError, match="the power"):
                calibrate(work, "resumed.json")
        else:
            assert calibrate(work, "resumed.json").code == code
    assert len(unfinished(work)) == 1 and not (work / "resumed.json").exists()

    done = calibrate(work, "resumed.json")
    assert done.code == 0 and f"interrupted after {STOP_AFTER} images" in done.sentence
    assert not unfinished(work)
    assert "interrupted" not in calibrate(work, "again.json").sentence
    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "another"))
    assert calibrate(work, "whole.json").code == 0
    assert essence(work / "resumed.json") == essence(work / "whole.json")


def test_a_damaged_state_is_as_good_as_none(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrate(work, "whole.json").code == 0
    entry = next(path for path in (work / "cache").rglob("calibration.json")).parents[1]
    state = entry.with_name(f"{entry.name}.unfinished")
    assert radixrt("cache", "--prune").code == 0
    state.parent.mkdir(exist_ok=True)
    state.write_bytes(b"PK\x03\x04" + bytes(range(256)))
    done = calibrate(work, "resumed.json")
    assert done.code == 0 and "interrupted" not in done.sentence and not unfinished(work)
    assert essence(work / "resumed.json") == essence(work / "whole.json")
