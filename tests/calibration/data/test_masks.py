"""Masks are found beside images in every layout, seen as the network sees its image, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radixrt.calibration.data.masks import check_masks, read_mask
from radixrt.calibration.data.pixels import ImageUnusableError
from radixrt.calibration.data.source import load_data
from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError
from tests.photographs import SMALL, write_image


def write_mask(path: Path, size: tuple[int, int] = (20, 24), classes: int = 3, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    indices = np.random.default_rng(seed).integers(0, classes, (size[1], size[0])).astype(np.uint8)
    Image.fromarray(indices).save(path)
    return path


LAYOUTS = {
    "two folders": ("images/{}.jpg", "masks/{}.png"),
    "two folders, marked": ("images/{}.jpg", "masks/{}_mask.png"),
    "halves around": ("{half}/images/{}.jpg", "{half}/masks/{}.png"),
    "halves inside": ("images/{half}/{}.jpg", "masks/{half}/{}.png"),
    "marked beside": ("{}.png", "{}_mask.png"),
    "by suffix": ("{}.jpg", "{}.png"),
    "halves, marked beside": ("{half}/{}.jpg", "{half}/{}_mask.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, tmp_path: Path) -> None:
    image, mask = LAYOUTS[layout]
    for number in range(12):
        half = "train" if number < 4 else "val"
        write_image(tmp_path / image.format(number, half=half), seed=number)
        write_mask(tmp_path / mask.format(number, half=half), seed=number)
    data = load_data(str(tmp_path), SMALL)
    assert data.kind is TargetKind.MASKS and data.labels == () and data.test is not None
    assert len(data.calibration) + len(data.test) == 12
    for batch in data.test.batches(4):
        assert batch.targets is not None
        for target in batch.targets:
            assert target.shape == (16, 16) and target.dtype == np.uint8 and set(np.unique(target)) <= {0, 1, 2}
    check_masks(list(zip(data.test.paths, data.test.targets or (), strict=True)), 3)


def test_a_mask_is_cropped_as_its_image_and_what_lies_outside_has_no_class(tmp_path: Path) -> None:
    pattern = np.zeros((24, 40), np.uint8)
    pattern[:, 20:] = 7
    Image.fromarray(pattern).save(tmp_path / "m.png")
    seen = read_mask(tmp_path / "m.png", SMALL)
    assert (seen[:, :7] == 0).all() and (seen[:, 9:] == 7).all() and set(np.unique(seen)) == {0, 7}
    padded = read_mask(tmp_path / "m.png", SMALL.with_overrides(crop_mode="border"))
    assert (padded[0] == 255).all() and set(np.unique(padded)) == {0, 7, 255}


def test_zero_and_255_are_two_classes(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / "images" / f"{number}.png", seed=number)
        indices = np.random.default_rng(number).integers(0, 2, (24, 20)).astype(np.uint8) * 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(indices).save(tmp_path / "masks" / f"{number}.png")
    test = load_data(str(tmp_path), SMALL).test
    assert test is not None
    (batch,) = test.batches(8)
    assert batch.targets is not None and set(np.unique(np.stack(batch.targets))) == {0, 1}
    check_masks(list(zip(test.paths, test.targets or (), strict=True)), 2)


def test_what_cannot_be_judged_by_is_one_sentence(tmp_path: Path) -> None:
    image, mask = write_image(tmp_path / "a.png"), write_mask(tmp_path / "m.png", classes=5)
    with pytest.raises(InputError, match=r"holds the class 4, and the network has 3 classes \(0 to 2\)"):
        check_masks([(image, mask)], 3)
    other = write_mask(tmp_path / "n.png", size=(10, 12))
    with pytest.raises(InputError, match="is 10 x 12 pixels and its image 20 x 24: a mask must be of its image's size"):
        check_masks([(image, other)], 3)
    with pytest.raises(InputError, match=r"the mask .*absent\.png is missing"):
        check_masks([(image, tmp_path / "absent.png")], 3)
    with pytest.raises(ImageUnusableError, match="is a colour picture: save class indices"):
        read_mask(image, SMALL)


def test_an_image_without_its_mask_is_named(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / "images" / f"{number}.jpg")
        if number:
            write_mask(tmp_path / "masks" / f"{number}.png")
    with pytest.raises(InputError, match=r"1 of 3 images in .* have no mask in .*the first is 0\.jpg"):
        load_data(str(tmp_path), SMALL)


@pytest.mark.parametrize(
    ("head", "rows", "kind", "targets", "labels"),
    [
        ("path,label", ["cat;dog", "", "dog"], TargetKind.LABELS, [(0, 1), (), (1,)], ("cat", "dog")),
        ("path,cat,dog", ["1,1", "0,0", "0,1"], TargetKind.LABELS, [(0, 1), (), (1,)], ("cat", "dog")),
        ("path,label", ["1.5", "2", "-3"], TargetKind.NUMBERS, [(1.5,), (2.0,), (-3.0,)], ()),
        ("path,x,y", ["1,2", "3,4", "5,6"], TargetKind.NUMBERS, [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)], ()),
        ("path,text", ["one", "two, three", ""], TargetKind.TEXTS, ["one", "two, three", ""], ()),
        ("path,label", ["cat", "dog", "cat"], TargetKind.CLASSES, [0, 1, 0], ("cat", "dog")),
    ],
)
def test_a_table_of_labels_of_every_kind(
    head: str, rows: list[str], kind: TargetKind, targets: list[object], labels: tuple[str, ...], tmp_path: Path
) -> None:
    said = [f'{i}.png,"{row}"' if "text" in head else f"{i}.png,{row}" for i, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("\n".join([head, *said]))
    data = load_data(str(tmp_path / "t.csv"), SMALL)
    assert data.kind is kind and data.labels == labels and data.test is not None
    seen = dict(zip(data.calibration.names, data.calibration.targets or (), strict=True))
    seen |= dict(zip(data.test.names, data.test.targets or (), strict=True))
    assert [seen[f"{i}.png"] for i in range(3)] == targets
