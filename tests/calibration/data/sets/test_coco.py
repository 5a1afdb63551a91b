"""COCO's JSON: boxes as they are, images found where people put them, and one sentence for each file that lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from radixrt.calibration.data.boxes import Boxes
from radixrt.calibration.data.pixels import shape_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.sets.coco import find_annotations, find_own_layout, read_annotations
from radixrt.errors import InputError


def content(**changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 3, "bbox": [10, 20, 30, 5], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 5, "bbox": [0.5, 1, 2, 2], "iscrowd": 1},
        ],
        "categories": [{"id": 3, "name": "bolt"}, {"id": 5, "name": "nut"}],
        "info": {"year": 2026},
    } | changes


def written(folder: Path, name: str = "annotations.json", root: str = ".", **changes: Any) -> Path:
    (folder / root).mkdir(parents=True, exist_ok=True)
    for image in ("a.png", "b.png"):
        Image.new("L", (60, 40)).save(folder / root / image)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content(**changes)))
    return folder / name


@pytest.mark.parametrize("images", [".", "images"])
def test_boxes_become_corners_and_images_are_found(tmp_path: Path, images: str) -> None:
    found = read_annotations(written(tmp_path, root=images))
    assert found.categories == {3: "bolt", 5: "nut"}
    (a, none), (b, two) = found.images
    assert (a, b) == (tmp_path / images / "a.png", tmp_path / images / "b.png")
    assert len(none) == 0 and none.boxes.shape == (0, 4)
    assert two.boxes.tolist() == [[10, 20, 40, 25], [0.5, 1, 2.5, 3]]
    assert two.labels.tolist() == [0, 1] and two.ids == (3, 5)
    assert two.crowd is not None and two.crowd.tolist() == [False, True]
    assert find_annotations(tmp_path) == tmp_path / "annotations.json"


def test_cocos_own_layout_is_found(tmp_path: Path) -> None:
    files = [written(tmp_path, f"annotations/instances_{half}2017.json", f"{half}2017") for half in ("train", "val")]
    assert find_own_layout(tmp_path) == tuple(files)
    assert read_annotations(files[1]).images[0][0] == tmp_path / "val2017" / "a.png"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "c.png"}], "annotations": []}, "c.png"),
        ({"images": [{"id": 7, "file_name": "a.png"}]}, "no image with the id 9"),
        ({"categories": [{"id": 3, "name": "bolt"}]}, "no category with the id 5"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, -1, 2]}]}, "annotation 1: the box"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "annotations.0.bbox"),
        ({"images": []}, "lists no images"),
        ({"images": [{"id": 7, "file_name": "a.png"}, {"id": 7, "file_name": "b.png"}]}, "same id"),
        ({"images": [{"id": 7, "file_name": "../x/a.png"}], "annotations": []}, "outside"),
    ],
)
def test_a_file_that_lies_is_refused_in_one_sentence(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    file = written(tmp_path / "x", **changes)
    with pytest.raises(InputError) as caught:
        read_annotations(file)
    assert said in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2")
    with pytest.raises(InputError, match="not COCO's JSON"):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(90, 60), (50, 80), (64, 64)])
@pytest.mark.parametrize("crop", [1.0, 0.8])
def test_a_box_stays_on_its_object_however_the_image_is_prepared(mode: str, size: tuple[int, int], crop: float) -> None:
    preprocess = Preprocess(
        input_size=(1, 64, 48), mean=(0.0,), std=(1.0,), crop_pct=crop, crop_mode=mode, interpolation="nearest"
    )
    pixels = np.zeros(size[::-1], dtype=np.uint8)
    left, top, right, bottom = size[0] // 2 - 6, size[1] // 2 - 8, size[0] // 2 + 10, size[1] // 2 + 12
    pixels[top:bottom, left:right] = 255
    seen = np.argwhere(np.asarray(shape_image(Image.fromarray(pixels), preprocess)) == 255)
    expected = [seen[:, 1].min(), seen[:, 0].min(), seen[:, 1].max() + 1, seen[:, 0].max() + 1]
    placed = Boxes(np.array([[left, top, right, bottom]], dtype=np.float32), np.array([0])).prepared(size, preprocess)
    np.testing.assert_allclose(placed.boxes[0], expected, atol=1.01)  # nearest neighbours round to a pixel


def test_what_the_crop_leaves_out_is_gone() -> None:
    preprocess = Preprocess(input_size=(1, 32, 32), mean=(0.0,), std=(1.0,), crop_pct=1.0)
    boxes = Boxes(np.array([[0, 0, 8, 8], [30, 4, 60, 20]], dtype=np.float32), np.array([1, 2]))
    found = boxes.prepared((96, 32), preprocess)
    assert found.labels.tolist() == [2]
    assert found.boxes.tolist() == [[0, 4, 28, 20]]
