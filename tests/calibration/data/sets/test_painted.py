"""What is painted on a photograph is what its label says, and is painted alike everywhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from radixrt.calibration.data.sets import painted
from radixrt.calibration.data.sets.coco import read_annotations
from radixrt.calibration.data.sets.elpv import Elpv, read_elpv
from radixrt.calibration.data.sets.painted import SIDE, paint_cracks, paint_spots, painted_folder

GRAY = Image.new("L", (SIDE, SIDE), 100)


def test_a_mask_marks_every_pixel_that_was_painted_and_no_other() -> None:
    some = [paint_cracks(GRAY, f"cell{number}.png") for number in range(20)]
    for one in some:
        assert np.array_equal(np.asarray(one.image) != 100, one.mask == 1)
    assert {bool(one.mask.any()) for one in some} == {True, False}  # some have no crack


def test_a_box_touches_the_painted_pixels_on_all_sides() -> None:
    for number in range(20):
        spotted = paint_spots(GRAY, f"cell{number}.png")
        changed = np.asarray(spotted.image, dtype=int) - 100
        for (left, top, right, bottom), label in zip(spotted.boxes.astype(int), spotted.labels, strict=True):
            inside = changed[top:bottom, left:right]
            assert (inside >= 0).all() if label else (inside <= 0).all()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            changed[top:bottom, left:right] = 0
        assert not changed.any()


def test_the_name_and_the_variant_decide_what_is_painted() -> None:
    first, again, other, variant = (paint_cracks(GRAY, name, v) for name, v in (("a", 0), ("a", 0), ("b", 0), ("a", 1)))
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, other.mask) and not np.array_equal(first.mask, variant.mask)


def test_the_folders_hold_both_halves_and_are_written_once(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    elpv = read_elpv()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(painted, "read_elpv", lambda: Elpv((), elpv.calibration[:3], elpv.test[:5]))
    masks = painted_folder("cracks")
    assert sorted(path.name for path in (masks / "test" / "images").iterdir()) == sorted(
        path.name for path in (masks / "test" / "masks").iterdir()
    )
    spots = painted_folder("spots")
    assert [len(read_annotations(spots / half / "annotations.json").images) for half in ("calibration", "test")] == [
        3,
        5,
    ]
    marked = spots / "test" / "annotations.json"
    before = marked.stat().st_mtime_ns
    assert painted_folder("spots") == spots and marked.stat().st_mtime_ns == before
    assert json.loads(marked.read_text())["categories"] == [{"id": 0, "name": "dark"}, {"id": 1, "name": "bright"}]
