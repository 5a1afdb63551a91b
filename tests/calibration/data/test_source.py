"""Every layout of data gives disjoint halves; bad images are named, skipped and counted, bad data is refused."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from radixrt.calibration.data.sets import elpv
from radixrt.calibration.data.source import load_data, load_training_data
from radixrt.calibration.data.targets import Reading
from radixrt.errors import InputError, UnavailableError
from radixrt.export.feed import IMAGE_INPUT
from tests.photographs import SMALL, all_pixels, write_classes, write_image


def refuses(spec: Path | str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        load_data(str(spec), SMALL)
    assert "\n" not in str(caught.value)


# --- layouts ---


def test_class_folders_are_split_by_a_rule_that_adding_images_does_not_move(tmp_path: Path) -> None:
    write_classes(tmp_path, each=30)
    before = load_data(str(tmp_path), SMALL)
    assert before.test is not None
    assert before.labels == ("cat", "dog")
    assert not set(before.calibration.names) & set(before.test.names)
    assert len(before.calibration) + len(before.test) == 60
    assert 4 <= len(before.calibration) <= 22  # about a fifth
    for split in (before.calibration, before.test):
        assert split.targets == tuple(before.labels.index(name.split("/")[0]) for name in split.names)
    write_classes(tmp_path, classes=("cat", "eel"), each=35)
    after = load_data(str(tmp_path), SMALL)
    assert after.test is not None
    assert set(before.calibration.names) <= set(after.calibration.names)
    assert set(before.test.names) <= set(after.test.names)


def test_the_first_images_stand_for_all_classes(tmp_path: Path) -> None:
    # A calibration of a few images must not see only the class whose folder sorts first.
    write_classes(tmp_path / "train", each=40)
    write_classes(tmp_path / "val", each=2)
    data = load_data(str(tmp_path), SMALL, calibration_limit=20)
    assert len(data.calibration) == 20
    assert min(Counter(data.calibration.targets).values()) >= 5


@pytest.mark.parametrize(("calibration", "test"), [("train", "val"), ("calibration", "test"), ("train", "test")])
def test_halves_are_kept_apart(tmp_path: Path, calibration: str, test: str) -> None:
    # The test half lacks a class: its indices are still those of all classes together.
    write_classes(tmp_path / calibration, classes=("ant", "bee", "cat"), each=2)
    write_classes(tmp_path / test, classes=("ant", "cat"), each=3)
    data = load_data(str(tmp_path), SMALL)
    assert data.test is not None
    assert {name.split("/")[0] for name in data.calibration.names} == {calibration}
    assert {name.split("/")[0] for name in data.test.names} == {test}
    assert data.labels == ("ant", "bee", "cat")
    assert set(data.test.targets or ()) == {0, 2}


def test_calibration_folder_comes_before_train(tmp_path: Path) -> None:
    for half in ("train", "calibration", "test"):
        write_classes(tmp_path / half, each=1)
    names = load_data(str(tmp_path), SMALL).calibration.names
    assert all(name.startswith("calibration/") for name in names)


def test_a_flat_folder_calibrates_only(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", seed=number)
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("not listed")
    data = load_data(str(tmp_path), SMALL)
    assert data.test is None
    assert data.labels == ()
    assert data.calibration.targets is None
    assert sorted(data.calibration.names) == ["0.png", "1.png", "2.png"]
    assert next(data.calibration.batches(8)).targets is None


def test_two_images_give_each_half_one(tmp_path: Path) -> None:
    write_classes(tmp_path, each=1)
    data = load_data(str(tmp_path), SMALL)
    assert data.test is not None
    assert (len(data.calibration), len(data.test)) == (1, 1)


def test_an_empty_class_folder_stays_a_class(tmp_path: Path) -> None:
    write_classes(tmp_path, classes=("ant", "cat"), each=2)
    (tmp_path / "bee").mkdir()
    assert load_data(str(tmp_path), SMALL).labels == ("ant", "bee", "cat")


def test_a_networks_own_labels_number_the_classes(tmp_path: Path) -> None:
    # A subset of ImageNet's classes must get the head's indices, not 0, 1, ...
    write_classes(tmp_path, classes=("bee", "cat"), each=3)
    data = load_data(str(tmp_path), SMALL, reading=Reading(("ant", "cat", "bee", "dog")))
    assert data.test is not None
    for split in (data.calibration, data.test):
        assert split.targets == tuple({"bee": 2, "cat": 1}[name.split("/")[0]] for name in split.names)
    assert load_data(str(tmp_path), SMALL, reading=Reading(("bee", "wasp"))).labels == ("bee", "cat")


# --- CSV ---


def write_table(folder: Path, lines: list[str], header: str = "path,label") -> Path:
    table = folder / "photos.csv"
    table.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return table


def test_csv_with_names(tmp_path: Path) -> None:
    write_classes(tmp_path, each=5)
    lines = [f"{kind}/{n:03}.png,{kind}" for kind in ("dog", "cat") for n in range(5)]
    data = load_data(str(write_table(tmp_path, lines)), SMALL)
    assert data.test is not None
    assert data.labels == ("cat", "dog")
    assert len(data.calibration) + len(data.test) == 10
    assert data.test.targets == tuple(int(name.startswith("dog")) for name in data.test.names)


def test_csv_integers_are_class_indices_as_they_stand(tmp_path: Path) -> None:
    write_classes(tmp_path, each=2)
    lines = ["cat/000.png,7", "cat/001.png,7", "dog/000.png,2", "dog/001.png,2"]
    data = load_data(str(write_table(tmp_path, lines)), SMALL)
    assert data.test is not None
    assert {*(data.calibration.targets or ()), *(data.test.targets or ())} == {2, 7}
    assert len(data.labels) == 8


def test_csv_split_column_keeps_halves_apart(tmp_path: Path) -> None:
    write_classes(tmp_path, each=2)
    lines = ["cat/000.png,a,train", "dog/000.png,b,train", "cat/001.png,a,val", "dog/001.png,b,val"]
    data = load_data(str(write_table(tmp_path, lines, "path,label,split")), SMALL)
    assert data.test is not None
    assert set(data.calibration.names) == {"cat/000.png", "dog/000.png"}
    assert set(data.test.names) == {"cat/001.png", "dog/001.png"}


@pytest.mark.parametrize(
    ("header", "lines", "reason"),
    [
        ("file,class", ["a.png,1"], "no column label and path"),
        ("path", ["a.png"], "no column label"),
        ("path,label", [], "names no images"),
        ("path,label", ["a.png,"], "line 2"),
        ("path,label", ["a.png,1", "b.png"], "line 3"),
        ("path,label", ["../../secret.png,1"], "outside"),
        ("path,label", ["/etc/secret.png,1"], "outside"),
        ("path,label", ["a.png,-3"], "no class index"),
        ("path,label", ["a.png,1", "./a.png,2"], "twice"),
        ("path,label,split", ["a.png,1,dev"], "unknown split 'dev'"),
        ("path,label,split", ["a.png,1,train", "b.png,1,"], "split"),
        ("path,label,split", ["a.png,1,train"], "both halves"),
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, header: str, lines: list[str], reason: str) -> None:
    refuses(write_table(tmp_path, lines, header), reason)


def test_binary_csv_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.csv"
    path.write_bytes(b"path,label\n\xff\xfe\x00,1\n")
    refuses(path, "UTF-8")


# --- refusals ---


def test_no_such_data_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "there is no data at")
    refuses("", "no data is named")
    refuses(write_image(tmp_path / "one.png"), "is no data")
    refuses("x" * 5000, "cannot read the data|there is no data")


def test_empty_folders_are_refused(tmp_path: Path) -> None:
    refuses(tmp_path, "there are no images")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    refuses(tmp_path, "there are no images")
    write_classes(tmp_path / "halves" / "train", each=1)
    (tmp_path / "halves" / "val").mkdir()
    refuses(tmp_path / "halves", "there are no images in .*val")


def test_ambiguous_folders_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path / "one" / "train", each=1)
    refuses(tmp_path / "one", "not both halves")
    write_classes(tmp_path / "mixed", each=1)
    write_image(tmp_path / "mixed" / "loose.png")
    refuses(tmp_path / "mixed", "beside class folders")


# --- reading ---


def corrupt(folder: Path, count: int) -> list[str]:
    paths = sorted(folder.rglob("*.png"))[:count]
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])
    return [path.relative_to(folder).as_posix() for path in paths]


@pytest.mark.parametrize("workers", [0, 3])
def test_corrupt_images_are_named_skipped_and_counted(tmp_path: Path, workers: int) -> None:
    for number in range(40):
        write_image(tmp_path / f"{number:03}.png", seed=number)
    bad = corrupt(tmp_path, 2)  # exactly 5 %
    images = load_data(str(tmp_path), SMALL, workers=workers).calibration
    assert images.skipped == ()
    batches = list(images.batches(8))
    assert sum(len(batch.names) for batch in batches) == 38
    assert all(len(batch.inputs["input"]) == len(batch.names) for batch in batches)
    assert [skipped.name for skipped in images.skipped] == bad
    assert all("truncated" in skipped.reason for skipped in images.skipped)
    list(images.batches(8))
    assert len(images.skipped) == 2  # a second pass counts none twice


def test_more_than_five_percent_corrupt_is_refused(tmp_path: Path) -> None:
    for number in range(40):
        write_image(tmp_path / f"{number:03}.png", seed=number)
    bad = corrupt(tmp_path, 3)
    with pytest.raises(InputError, match="unusable") as caught:
        list(load_data(str(tmp_path), SMALL).calibration.batches(8))
    assert any(name in str(caught.value) for name in bad)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    for number in range(25):
        write_image(tmp_path / f"{number:03}.png", seed=number)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images = load_data(str(tmp_path), SMALL).calibration
    list(images.batches(8))
    assert [(s.name, s.reason) for s in images.skipped] == [("gone.png", "No such file or directory")]


def test_batches_do_not_depend_on_size_or_threads(tmp_path: Path) -> None:
    write_classes(tmp_path, each=10)
    reference = all_pixels(load_data(str(tmp_path), SMALL).calibration, size=1)
    for size, workers in ((3, 0), (16, 4)):
        other = all_pixels(load_data(str(tmp_path), SMALL, workers=workers).calibration, size=size)
        assert list(other) == list(reference)
        for name, pixels in reference.items():
            np.testing.assert_array_equal(other[name], pixels)


def test_batch_shapes_types_and_limit(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", each=1)
    write_classes(tmp_path / "val", each=6)
    test = load_data(str(tmp_path), SMALL).test
    assert test is not None
    batches = list(test.batches(4, limit=10))
    assert [batch.inputs["input"].shape for batch in batches] == [(4, 3, 16, 16), (4, 3, 16, 16), (2, 3, 16, 16)]
    assert all(batch.inputs["input"].dtype == np.float32 for batch in batches)
    assert all(batch.targets is not None for batch in batches)
    assert tuple(name for batch in batches for name in batch.names) == test.names[:10]
    assert test.take(3).names == test.names[:3]
    with pytest.raises(ValueError, match="batch of 0"):
        next(test.batches(0))


def test_only_the_current_batch_is_in_memory(tmp_path: Path) -> None:
    large = SMALL.with_overrides(input_size="3,128,128")
    for number in range(48):
        write_image(tmp_path / f"{number:03}.png", seed=number)
    images = load_data(str(tmp_path), large).calibration
    list(images.batches(4, limit=4))  # plug-ins of Pillow load here
    tracemalloc.start()
    for _ in images.batches(4):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batch_bytes = 4 * 3 * 128 * 128 * 4
    assert (
        peak < 5 * batch_bytes
    )  # all twelve batches would be twelve; one is stacked from its images while one is held


def test_sha256_is_of_the_content_alone(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / "one" / f"{number}.png", seed=number)
        write_image(tmp_path / "two" / f"other-{5 - number}.png", seed=number)
    one, two = (load_data(str(tmp_path / name), SMALL).calibration for name in ("one", "two"))
    assert one.sha256 == two.sha256
    assert one.take(5).sha256 != one.sha256
    write_image(tmp_path / "two" / "other-0.png", seed=99)
    assert load_data(str(tmp_path / "two"), SMALL).calibration.sha256 != one.sha256


def test_the_same_files_read_otherwise_are_other_data_to_a_network(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / f"{number}.png", seed=number)
    one, two = (load_data(str(tmp_path), SMALL.with_overrides(mean=mean)).calibration for mean in (None, "0.1,0.1,0.1"))
    assert one.sha256 == two.sha256
    assert one.prepared_sha256 != two.prepared_sha256
    assert one.take(3).prepared_sha256 != one.prepared_sha256


# --- ELPV ---


def test_elpv_has_four_classes_and_three_disjoint_splits() -> None:
    data, train = load_data("elpv", SMALL), load_training_data(SMALL)
    assert data.test is not None
    splits = [set(images.names) for images in (train, data.calibration, data.test)]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 2624
    assert 0.48 < len(train) / 2624 < 0.53
    assert 0.08 < len(data.calibration) / 2624 < 0.12
    assert data.labels == ("mono-functional", "mono-defective", "poly-functional", "poly-defective")
    assert all(set(images.targets or ()) == {0, 1, 2, 3} for images in (train, data.calibration, data.test))


def test_elpv_labels_are_the_packages_own() -> None:
    # The package's loader is the reference; its table is read here a second time, by other means.
    from elpv_dataset import utils

    table = Path(utils.__file__).parent / "data" / "labels.csv"
    rows = np.genfromtxt(table, dtype=["|S19", "<f8", "|S4"], names=["path", "probability", "type"])
    expected = {
        Path(
            row["path"].decode()
        ).name: f"{row['type'].decode()}-{'defective' if row['probability'] >= 0.5 else 'functional'}"
        for row in rows
    }
    found = elpv.read_elpv()
    entries = [*found.train, *found.calibration, *found.test]
    assert {entry.name: found.labels[entry.target or 0] for entry in entries} == expected
    assert all(entry.path.is_file() for entry in entries)


def test_elpv_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elpv, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'radixrt\[samples\]'"):
        load_data("elpv", SMALL)


def test_data_needs_no_deep_learning_library() -> None:
    # `radixrt run` and the bundle's tools read images where PyTorch is not installed.
    import subprocess

    code = (
        "import sys, radixrt.calibration.data.source;"
        "print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_of_several_sizes_come_in_batches_of_one_size(tmp_path: Path) -> None:
    data = load_data(str(write_classes(tmp_path)), SMALL)
    assert data.test is not None
    images = data.test.at((16, 16), (16, 32), (32, 16))
    seen = [(batch.inputs[IMAGE_INPUT].shape, batch.names) for batch in images.batches(2)]
    assert {shape[2:] for shape, _ in seen} == {(16, 16), (16, 32), (32, 16)}
    assert sorted(name for _, names in seen for name in names) == sorted(images.names)
    # Which image has which size is the same at every batch size.
    sizes = {name: shape[2:] for shape, names in seen for name in names}
    alone = [(batch.inputs[IMAGE_INPUT].shape[2:], batch.names[0]) for batch in images.batches(1)]
    assert {name: size for size, name in alone} == sizes
    assert images.prepared_sha256 != images.at((16, 16)).prepared_sha256
