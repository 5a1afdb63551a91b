"""The same table is made of what a device shows and of the deploy graph, and the report says of which it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.data.batch import Batch
from radixrt.engines.base import BuildOptions, Capability
from radixrt.export.graph.session import GraphSession
from radixrt.export.passes.float16 import to_float16
from radixrt.export.spec import BatchSpec, Precision
from radixrt.judge.locate import Located, locate, locate_built, measure
from radixrt.reuse import Kept, Reuse
from radixrt.validate.measure.drift import watched
from tests.networks.chain import network

CAPABILITY = Capability("tensorrt", True, True, "10.16.1")
BATCH = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)


class Device:
    """Shows what a graph computes on the CPU, with one layer's values changed; or fails.

    Args:
        deploy: the graph.
        change: takes a tensor's name and values, returns what is shown of it; None shows nothing.
    """

    def __init__(self, deploy: ir.Model, change: Callable[[str, Any], Any]) -> None:
        self.capability = CAPABILITY
        self.options = BuildOptions(Precision.FP16)
        self._graph = GraphSession(deploy, list(watched(deploy, deploy)), optimize=False, threads=1)
        self._change = change

    @contextmanager
    def showing(self, names: Sequence[str]) -> Iterator[Callable[[Any], dict[str, Any]]]:
        def show(images: Any) -> dict[str, Any]:
            changed = {name: self._change(name, array) for name, array in self._graph(images).items()}
            return {name: array for name, array in changed.items() if name in names and array is not None}

        yield show


def measured(change: Callable[[str, Any], Any]) -> tuple[Located, Located]:
    """What is found with the device and without it."""
    reference = network()
    deploy = to_float16(reference).model
    plan: Any = Device(deploy, change)
    return measure(reference, deploy, lambda: [{"input": BATCH}], plan), measure(
        reference, deploy, lambda: [{"input": BATCH}], None
    )


def test_what_the_device_shows_makes_the_same_rows_and_a_note_says_so() -> None:
    on_device, on_cpu = measured(lambda _, array: array)
    assert on_device.rows == on_cpu.rows
    assert "measured on the device: tensorrt 10.16.1" in on_device.notes[0]
    assert not on_cpu.notes


# A fault of the device alone must show, or the table would be that of the CPU under another name.
def test_a_layer_that_only_the_device_gets_wrong_is_the_first_drop() -> None:
    on_device, on_cpu = measured(lambda name, array: array * np.float16(2) if name == "c2" else array)
    [first] = [row for row in on_device.rows if row.first_drop]
    assert first.name.startswith("stage.4")
    assert first.gain == pytest.approx(2, abs=0.01)
    assert not any(row.first_drop for row in on_cpu.rows)


def broken(name: str, array: Any) -> Any:
    raise RuntimeError("the driver is gone")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (broken, "the driver is gone"),
        (lambda name, array: None if name == "c2" else array, "shows nothing of stage.4"),
        (lambda name, array: array[:1] if name == "c2" else array, "shows nothing of stage.4"),
    ],
)
def test_a_device_that_does_not_show_all_leaves_the_graph_on_the_cpu_and_a_note(
    change: Callable[[str, Any], Any], said: str
) -> None:
    fallen_back, on_cpu = measured(change)
    assert fallen_back.rows == on_cpu.rows
    assert len(fallen_back.notes) == 1
    assert "deploy graph on the CPU" in fallen_back.notes[0] and said in fallen_back.notes[0]


class Images:
    prepared_sha256 = "0"

    def batches(self, size: int, limit: int) -> Iterator[Any]:
        yield from (Batch({"input": part}, None, ()) for part in (BATCH, BATCH[:1]))


# A table of the CPU that is taken again where the device could be asked, or the other way round, would go unnoticed.
def test_a_build_keeps_what_the_device_showed_apart_from_what_the_cpu_computed(tmp_path: Path) -> None:
    reference = network()
    deploy = to_float16(reference).model
    doubled: Any = Device(deploy, lambda name, array: array * np.float16(2) if name == "c2" else array)
    images: Any = Images()
    with Reuse(root=tmp_path) as reuse:

        def located(plan: Any) -> Kept[Located]:
            return locate_built(reference, deploy, images, 2, plan, reuse)

        on_device, on_cpu = located(doubled), located(None)
        assert on_device.reused == on_cpu.reused == ()
        assert any(row.first_drop for row in on_device.value.rows)
        assert not any(row.first_drop for row in on_cpu.value.rows)
        assert "measured on the device" in on_device.value.notes[0] and on_cpu.value.notes == ()
        assert located(doubled) == Kept(on_device.value, ("drift",))
        assert located(None) == Kept(on_cpu.value, ("drift",))


def test_validating_a_bundle_asks_the_device_as_well(tmp_path: Path) -> None:
    reference = network()
    deploy = to_float16(reference).model
    ir.save(deploy, tmp_path / "deploy.onnx")
    plan: Any = Device(deploy, lambda name, array: array * np.float16(2) if name == "c2" else array)
    images: Any = Images()
    located = locate(tmp_path / "deploy.onnx", reference, images, BatchSpec(1, 2), plan)
    assert any(row.first_drop for row in located.rows)
    assert "measured on the device" in located.notes[0]
