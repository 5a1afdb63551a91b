"""Protects calibration as a whole: no batch size, order or interruption changes a table, and bad input is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixrt.calibration.ranges import collect
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.ranges.observers import TensorObserver
from radixrt.calibration.ranges.outputs import sample_stride
from radixrt.calibration.ranges.resume import CollectState, load_state, save_state
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.errors import InputError
from radixrt.export.graph.session import GraphSession
from tests.networks.residual import Net, images, plain, split_block

DATA = images(6)


def essence(table: CalibrationTable) -> CalibrationTable:
    return table.model_copy(update={"seconds": 0.0, "peak_bytes": 0})


@pytest.fixture(scope="module")
def reference() -> CalibrationTable:
    return essence(calibrate(plain(), [{"input": DATA}], threads=1))


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(len(DATA))), st.sets(st.integers(1, len(DATA) - 1)))
def test_batches_and_order_change_nothing(reference: CalibrationTable, order: list[int], cuts: set[int]) -> None:
    # The stated tolerance is none: bit for bit, the content hash included.
    batches = [{"input": some} for some in np.split(DATA[list(order)], sorted(cuts))]
    assert essence(calibrate(plain(), batches, threads=1)) == reference


def test_a_static_batch_sees_the_same_as_brute_force() -> None:
    net = Net(batch=4)
    net.head(net.conv_relu("input", "a", 8))
    model = net.build(shape=[4])
    table = calibrate(
        model, [{"input": DATA}], CalibrationOptions(Method.MINMAX), threads=1
    )  # 6 images: the second batch is padded
    padded = np.concatenate([DATA, DATA[-1:], DATA[-1:]])
    graph = GraphSession(model, ["a"], threads=1)
    seen = np.concatenate([graph({"input": padded[:4]})["a"], graph({"input": padded[4:]})["a"]])[:6]
    assert table.images == 6
    assert table.amax("a") == float(np.abs(seen).max())
    found = table.find("a")
    assert found is not None
    assert found.histogram.values == seen.size


def test_ranges_are_those_of_all_activations(reference: CalibrationTable) -> None:
    graph = GraphSession(plain(), ["out"], threads=1)
    seen = np.concatenate([graph({"input": DATA[i : i + 1]})["out"] for i in range(len(DATA))])
    found = reference.find("out")
    assert found is not None
    # Two graphs with other outputs: ONNX Runtime fuses them differently, and each rounds its sums of 3 x 3 x 16
    # products in an order of its own, by at most one eps of float32 a product.
    rounding = 3 * 3 * 16 * float(np.finfo(np.float32).eps)
    assert found.candidates.minmax == pytest.approx(float(seen.max()), rel=rounding)
    assert found.minimum == 0.0
    assert found.histogram.zeros == int((seen == 0).sum())
    dead = tuple(int(c) for c in np.flatnonzero(seen.max(axis=(0, 2, 3)) == 0))
    assert found.dead_channels == dead


def test_splits_share_the_range_of_what_they_split() -> None:
    table = calibrate(split_block(), [{"input": DATA[:2]}])
    names = [t.name for t in table.tensors]
    assert "u" in names
    assert "u0" not in names and "u1" not in names


class InterruptedRunError(Exception):
    pass


def broken(data: np.ndarray, after: int) -> Iterator[dict[str, np.ndarray]]:
    for i, image in enumerate(data):
        if i == after:
            raise InterruptedRunError
        yield {"input": image[None]}


def test_an_interrupted_run_resumes(
    reference: CalibrationTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "_SAVE_EVERY_S", 0.0)
    state = tmp_path / "calibration.part.npz"
    with pytest.raises(InterruptedRunError):
        calibrate(plain(), broken(DATA, 4), state_path=state, threads=1)
    read: list[int] = []
    table = calibrate(plain(), [{"input": DATA}], state_path=state, threads=1, on_resume=read.append)
    assert read == [4], "the images read before were read again"
    assert essence(table) == reference
    assert not state.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"hello"])
def test_a_damaged_state_is_not_used(reference: CalibrationTable, tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "calibration.part.npz"
    state.write_bytes(content)
    assert essence(calibrate(plain(), [{"input": DATA}], state_path=state, threads=1)) == reference


def test_a_state_with_a_changed_byte_is_the_old_one_or_none(tmp_path: Path) -> None:
    observer = TensorObserver("a")
    observer.observe(np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32))
    path = tmp_path / "calibration.part.npz"
    save_state(CollectState("ab" * 32, [observer], images=1, data_sum=7), path)
    whole = path.read_bytes()
    taken = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = load_state(path, CollectState("ab" * 32, [TensorObserver("a")]))
        if found.images:
            taken += 1
            assert (found.images, found.data_sum) == (1, 7)
            np.testing.assert_array_equal(found.observers[0].histogram.counts, observer.histogram.counts)
            np.testing.assert_array_equal(found.observers[0].maximum, observer.maximum)
    assert taken < len(whole) // 14


def test_a_state_of_another_graph_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "_SAVE_EVERY_S", 0.0)
    state = tmp_path / "calibration.part.npz"
    with pytest.raises(InterruptedRunError):
        calibrate(split_block(), broken(DATA, 4), state_path=state, threads=1)
    assert calibrate(plain(), [{"input": DATA}], state_path=state, threads=1).images == len(DATA)


@pytest.mark.parametrize("size", [1, 7, 1 << 15, (1 << 15) + 1, 64 * 56 * 56, 3 * 224 * 224, 2048 * 49])
def test_the_sample_visits_every_channel_row_and_column(size: int) -> None:
    stride = sample_stride(size)
    assert np.gcd(stride, size) == 1
    assert len(range(0, size, stride)) <= 1 << 15


def test_no_images() -> None:
    with pytest.raises(InputError, match="no calibration images"):
        calibrate(plain(), [])


def test_images_of_another_size() -> None:
    with pytest.raises(InputError, match="do not fit"):
        calibrate(plain(), [{"input": images(1, size=20)}])


def test_nan_in_an_image_is_named() -> None:
    bad = DATA.copy()
    bad[3, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="'input' holds NaN"):
        calibrate(plain(), [{"input": bad}])


def test_overflow_inside_the_graph_is_named() -> None:
    with np.errstate(over="ignore"), pytest.raises(InputError, match="holds NaN or infinite"):
        calibrate(plain(), [{"input": DATA * np.float32(1e38)}])
