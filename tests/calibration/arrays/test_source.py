"""Arrays as data: what a network takes is found in files, folders, factories and objects, and nothing else is taken."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from radixrt.calibration.arrays.source import open_arrays
from radixrt.calibration.data.source import DataSource, load_arrays
from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError
from radixrt.export.spec import InputSpec

INPUTS = (InputSpec("image", (None, 3, 4, 4)), InputSpec("meta", (None, 2), "int64"))
IMAGES = np.random.default_rng(0).normal(size=(20, 3, 4, 4)).astype(np.float32)
META = np.arange(40).reshape(20, 2)
CLASSES = np.arange(20) % 4


def loaded(data: object, inputs: tuple[InputSpec, ...] = INPUTS, classes: int = 4) -> DataSource:
    arrays = open_arrays(data)
    assert arrays is not None
    return load_arrays(arrays, inputs, classes=classes)


def saved(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


class Photographs(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return (torch.from_numpy(IMAGES[index]), torch.from_numpy(META[index])), int(CLASSES[index])


def by_name() -> Iterator[Any]:
    for image, meta in zip(IMAGES, META, strict=True):
        yield {"meta": meta, "image": image}


def data_of(kind: str, folder: Path) -> object:
    labels = folder / "labels.npz"
    match kind:
        case "npz":
            return saved(labels, image=IMAGES, meta=META, labels=CLASSES)
        case "compressed":
            np.savez_compressed(labels, meta=META, image=np.asfortranarray(IMAGES.astype(np.float64)), labels=CLASSES)
            return str(labels)
        case "dataset":
            return Photographs()
        case "loader":
            return torch.utils.data.DataLoader(Photographs(), batch_size=3)
        case _:
            return [Photographs()[index] for index in range(20)]


@pytest.mark.parametrize("kind", ["npz", "compressed", "dataset", "loader", "list"])
def test_the_same_samples_come_out_of_every_kind(kind: str, tmp_path: Path) -> None:
    found = loaded(data_of(kind, tmp_path))
    assert found.test is not None and found.kind is TargetKind.CLASSES and found.labels == ("0", "1", "2", "3")
    assert len(found.calibration) + len(found.test) == 20 and not set(found.calibration.names) & set(found.test.names)
    for samples in (found.calibration, found.test):
        for batch in samples.batches(3):
            rows = [int(name.removeprefix("#")) for name in batch.names]
            np.testing.assert_array_equal(batch.inputs["image"], IMAGES[rows])
            np.testing.assert_array_equal(batch.inputs["meta"], META[rows])
            assert batch.inputs["meta"].dtype == np.int64 and batch.targets == tuple(CLASSES[rows].tolist())


def test_without_targets_every_sample_calibrates_and_judges(tmp_path: Path) -> None:
    for data in (by_name(), saved(tmp_path / "x.npz", image=IMAGES, meta=META)):
        found = loaded(data)
        assert (len(found.calibration), found.test, found.kind) == (20, None, None)
        assert [len(batch.names) for batch in found.calibration.batches(8)] == [8, 8, 4]
        assert len(found.calibration.sha256) == 64


def test_a_folder_keeps_the_two_halves_apart(tmp_path: Path) -> None:
    saved(tmp_path / "calibration.npz", image=IMAGES[:5], meta=META[:5])
    saved(tmp_path / "test.npz", image=IMAGES[5:], meta=META[5:], targets=CLASSES[5:])
    found = loaded(str(tmp_path))
    assert found.test is not None and (len(found.calibration), len(found.test)) == (5, 15)
    assert next(found.test.batches(2)).targets == (1, 2)


@pytest.mark.parametrize("name", ["samples", "iterated"])
def test_a_factory_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def iterated():\n    for i in range(6): yield np.full((3, 4, 4), i, np.float32), [0.5 * i]\n"
        "def samples():\n    return list(iterated())\n"
    )
    found = loaded(f"{tmp_path / 'mine.py'}:{name}", INPUTS[:1], classes=0)
    assert found.kind is TargetKind.NUMBERS and found.test is not None
    batch = next(found.test.batches(1))
    assert batch.targets == ((0.5 * batch.inputs["image"].max(),),)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"image": IMAGES},
            r"lacks the input meta \(it has image\): .* takes image \(N x 3 x 4 x 4, float32\)",
        ),
        ({"image": IMAGES, "mete": META}, "lacks the input meta"),
        ({"image": IMAGES[:, :, :3], "meta": META}, "has image of N x 3 x 3 x 4, and the network takes image"),
        ({"image": IMAGES, "meta": META.astype(np.float32)}, "has meta as float32, and the network takes meta"),
        (
            {"image": (IMAGES * 9).astype(np.uint8), "meta": META},
            "has image as uint8, .* convert it, normalised,",
        ),
        ({"image": IMAGES * np.nan, "meta": META}, "has NaN or infinite numbers in image"),
        ({"image": IMAGES, "meta": META[:7]}, r"different numbers of samples \(image 20, meta 7\)"),
        ({"image": IMAGES[:0], "meta": META[:0]}, "holds no samples"),
        ({"image": np.array(["a", "b"]), "meta": META[:2]}, "image is <U1: give numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_a_sentence(
    arrays: dict[str, np.ndarray], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        loaded(saved(tmp_path / "x.npz", **arrays))


def test_objects_that_are_no_data_are_refused(tmp_path: Path) -> None:
    class Broken(Photographs):
        def __getitem__(self, index: int) -> Any:
            raise RuntimeError("disk is gone")

    for data, said in (
        (7, "is no data"),
        ({"image": IMAGES}, "maps names to arrays"),
        ([], "holds no samples"),
        (Broken(), "fails at sample 0: RuntimeError: disk is gone"),
        ("mine.py:absent", "no file mine.py that could hold"),
        (tmp_path / "absent.npz", "there is no data at"),
    ):
        with pytest.raises(InputError, match=said):
            loaded(data)
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match=r"is not a \.npz file of numbers"):
        loaded(tmp_path / "x.npz")


def test_the_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    peaks = []
    for count in (64, 1024):
        saved(tmp_path / "x.npz", image=np.zeros((count, 3, 64, 64), np.float32))
        samples = loaded(tmp_path / "x.npz", (InputSpec("image", (None, 3, 64, 64)),)).calibration
        tracemalloc.start()
        assert sum(len(batch.names) for batch in samples.batches(8)) == min(count, 512)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
