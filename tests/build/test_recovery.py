"""Protects what the build makes of accuracy recovery: it is reused, bounded, and keeps a limit that a user sets."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from radixrt.build.deploy import calibrated
from radixrt.build.layer_gains import layer_gains
from radixrt.build.recovery import SEARCH_BYTES, Improved, improved, searchable
from radixrt.calibration.data.batch import READ_BYTES
from radixrt.calibration.data.images import ImageList
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.splits import Entry
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.recovery.mixed_precision import keep_worst_in_float
from radixrt.calibration.recovery.recover import recover, shifted
from radixrt.calibration.recovery.sensitivity import LayerSensitivity
from radixrt.calibration.recovery.techniques import SearchProgress, Technique
from radixrt.calibration.spec import CalibrationOptions, MaxDrop, Method, Recovery
from radixrt.engines.registry import get
from radixrt.export.graph.layers import layers_of, macs_of
from radixrt.options import CompileOptions
from radixrt.progress import Stages, shown
from radixrt.request import EngineRequest
from radixrt.reuse import Reuse
from radixrt.validate.gates import GateLimits
from tests.networks.residual import Net, images, logits, se_block

TARGET = get("onnxruntime")
OPTIONS = PlacementOptions(TARGET.traits)


def quiet() -> Stages:
    return Stages()


@pytest.fixture
def photos(tmp_path: Path) -> ImageList:
    rng = np.random.default_rng(0)
    entries = []
    for i in range(12):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        entries.append(Entry(path.name, path, i % 2))
    return ImageList(entries, Preprocess(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0))


def stacked(photos: ImageList) -> np.ndarray:
    return np.concatenate([batch.inputs["input"] for batch in photos.batches(4)])


def test_what_was_recovered_once_is_taken_again(photos: ImageList, tmp_path: Path) -> None:
    model = se_block()
    table = calibrate(model, [{"input": stacked(photos)}])
    otherwise = ImageList([Entry(p.name, p, 0) for p in photos.paths], photos.preprocess.with_overrides(mean="0.1"))
    with Reuse(root=tmp_path / "cache") as reuse:

        def recovered(images: ImageList) -> Improved:
            return improved(model, table, images, OPTIONS, Recovery(), quiet(), reuse, TARGET)

        first, again = recovered(photos), recovered(photos)
        assert (first.reused, again.reused) == ((), ("recovery",))
        assert recovered(photos.take(8)).reused == (), "other images were answered with an earlier result"
        assert recovered(otherwise).reused == (), "images that are read otherwise were answered with an earlier result"
        entropy = CalibrationOptions(Method.ENTROPY)
        assert calibrated(model, photos, CalibrationOptions(), quiet(), reuse).reused == ()
        assert calibrated(model, otherwise, CalibrationOptions(), quiet(), reuse).reused == ()
        taken = calibrated(model, photos, entropy, quiet(), reuse)
        assert taken.reused == ("calibration",) and taken.summary.reused, "another method read the images again"
        assert taken.table.tensors == calibrate(model, [{"input": stacked(photos)}], entropy).tensors
        percentile = CalibrationOptions(Method.PERCENTILE, 99.0)
        assert calibrated(model, photos, percentile, quiet(), reuse).reused == ()
        same = calibrated(se_block(), photos, entropy, quiet(), reuse)
        assert same.reused == ("calibration",), "the same graph and images are enough, no less"
    assert [s.partition(":")[0] for s in first.sentences] == [t.value for t in Technique]
    assert again.sentences == first.sentences
    assert again.table == first.table
    x = stacked(photos)
    np.testing.assert_array_equal(logits(again.model, x), logits(first.model, x))


def test_the_largest_networks_have_biases_corrected_and_the_report_says_what_is_left_out() -> None:
    model, x = se_block(), images(8)
    table = calibrate(model, [{"input": x}])
    found = recover(model, table, {"input": x}, OPTIONS, work=1)
    assert found.table == table and found.shifts
    *others, bias = found.steps
    assert all("left out" in step.sentence() and "too large" in step.sentence() for step in others)
    assert bias.technique is Technique.BIAS and bias.after_db > bias.before_db


@pytest.mark.parametrize(("side", "kept"), [(64, 128), (1024, 10), (4096, 4)])
def test_a_search_keeps_as_many_images_as_have_room_however_many_there_are(side: int, kept: int) -> None:
    entries = [Entry(f"{i}", Path(f"{i}.png")) for i in range(200)]
    photos = ImageList(entries, Preprocess(input_size=(3, side, side), mean=(0.5,) * 3, std=(0.25,) * 3))
    assert searchable(photos, se_block(), 128) == kept
    assert kept * photos.sample_bytes <= SEARCH_BYTES or kept == 4
    assert photos.together() * photos.sample_bytes <= READ_BYTES or photos.together() == 1
    assert photos.together() == {64: 8, 1024: 2, 4096: 1}[side]


def test_a_smaller_allowance_drops_the_dearest_technique_first() -> None:
    model, x = se_block(), images(8)
    table = calibrate(model, [{"input": x}])
    whole = recover(model, table, {"input": x}, OPTIONS)
    assert not any(step.left_out for step in whole.steps)
    macs = sum(macs_of(layer) for layer in layers_of(model.graph))
    for passes, tried in (
        # Of 4 images 2 are fitted to and 2 judge; without groups of layers two passes over all of them; ranges take 6.
        (2 * 2 + 2, {Technique.BIAS}),
        (2 * 2 + 2 + 6 * 4, {Technique.RANGES, Technique.BIAS}),
        (2 * 2 + 2 + 6 * 4 + 2 * 2 + 3 * 2, set(Technique)),
    ):
        some = recover(model, table, {"input": x}, OPTIONS, work=macs * passes)
        assert {step.technique for step in some.steps if not step.left_out} == tried


def test_layers_stay_in_float_until_no_more_than_the_limit_is_lost(photos: ImageList, tmp_path: Path) -> None:
    model, x = se_block(), stacked(photos)
    # Logits around zero, so that the answers are not all the same.
    last = layers_of(model.graph)[-1]
    model = shifted(model, {last.name: -np.median(logits(model, x), axis=0)})
    table = calibrate(model, [{"input": x}])
    # Ranges that clip nearly everything: INT8 as calibrated answers wrongly.
    broken = table.with_amax({name.name: table.amax(name.name) / 300 for name in table.tensors})
    limit = Recovery(enabled=False, max_drop=MaxDrop(0.0, strict=False, labelled=False))
    exact = logits(model, x).argmax(axis=1)
    plain = logits(place(model, broken, OPTIONS)[0], x, optimize=False).argmax(axis=1)
    assert (plain != exact).any(), "the broken ranges must lose an answer for this test to mean anything"
    with Reuse(root=tmp_path / "cache") as reuse:
        found = improved(model, broken, photos, OPTIONS, limit, quiet(), reuse, TARGET)
        easy = improved(
            model, table, photos, OPTIONS, replace(limit, max_drop=MaxDrop(100, False, False)), quiet(), reuse, TARGET
        )
    assert found.exclude and not easy.exclude
    mixed, _ = place(found.model, found.table, replace(OPTIONS, exclude=found.exclude))
    assert (logits(mixed, x, optimize=False).argmax(axis=1) == exact).all()
    assert "layers in float" in found.sentences[-1] and "for want of labels" in found.sentences[-1]


class _CtrlC:
    """A gate that a user interrupts when it is asked for the n-th time."""

    def __init__(self, at: int, needed: int) -> None:
        self.at, self.needed, self.asked = at, needed, 0

    def __call__(self, options: PlacementOptions) -> bool:
        self.asked += 1
        if self.asked == self.at:
            raise KeyboardInterrupt
        return len(options.exclude) >= self.needed


def test_ctrl_c_keeps_the_best_that_was_found() -> None:
    rows = tuple(LayerSensitivity(f"n{i}", f"m{i}", "Conv", 20.0 + i, 10, 1 / 16, 0.5) for i in range(16))
    seen: list[SearchProgress] = []
    # 0 fails, 16 passes, 8 passes, 4 passes, then Ctrl-C.
    found = keep_worst_in_float(rows, OPTIONS, _CtrlC(5, needed=3), on_progress=seen.append)
    assert found.passed and found.stopped
    assert len(found.excluded) == 4 and found.forgone_ms == pytest.approx(4 * 0.5)
    assert [p.done for p in seen] == [1, 2, 3, 4] and all(p.seconds_left >= 0 and p.done <= p.total for p in seen)
    early = keep_worst_in_float(rows, OPTIONS, _CtrlC(2, needed=3))
    assert early.stopped and not early.passed and not early.excluded


def test_ctrl_c_during_the_search_lets_the_build_go_on(
    photos: ImageList, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = se_block()
    table = calibrate(model, [{"input": stacked(photos)}])
    broken = table.with_amax({name.name: table.amax(name.name) / 300 for name in table.tensors})

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("radixrt.build.recovery.sensitivity", interrupted)
    said = io.StringIO()
    with Reuse(root=tmp_path / "cache") as reuse, shown(Console(file=said)):
        limit = Recovery(enabled=False, max_drop=MaxDrop(0.0, strict=True, labelled=False))
        found = improved(model, broken, photos, OPTIONS, limit, quiet(), reuse, TARGET)
    assert "was stopped before it found one" in found.sentences[-1]
    assert "the build goes on" in said.getvalue()
    assert not found.exclude


def test_what_int8_saves_is_profiled_layer_by_layer() -> None:
    net = Net(size=32)
    x = net.conv_relu(net.conv_relu("input", "a", 64), "b", 64)
    net.head(net.conv_relu(x, "c", 64))
    model = net.build(shape=[4])
    table = calibrate(model, [{"input": images(2, size=32)}])
    gains = layer_gains(model, table, OPTIONS, TARGET)
    assert gains is not None and set(gains) == {"node_b_conv", "node_c_conv"}
    assert any(gain != 0 for gain in gains.values())
    assert layer_gains(model, table, PlacementOptions(get("tensorrt").traits), get("tensorrt")) is None


def test_a_limit_that_so_few_images_cannot_show_is_said_to_be_out_of_reach(photos: ImageList, tmp_path: Path) -> None:
    model = se_block()
    table = calibrate(model, [{"input": stacked(photos)}])
    limit = Recovery(enabled=False, max_drop=MaxDrop(0.1, strict=True, labelled=False))
    with Reuse(root=tmp_path / "cache") as reuse:
        found = improved(model, table, photos, OPTIONS, limit, quiet(), reuse, TARGET)
    assert "cannot be reached" in found.sentences[-1]
    assert not found.exclude


def test_the_request_decides_what_is_done() -> None:
    request = EngineRequest.of(CompileOptions())
    assert request.recover(True) == Recovery()
    assert not replace(request, recovery=False).recover(True).enabled
    asked = replace(request, gates=GateLimits(max_drop=0.2, strict=True)).recover(labelled=True)
    assert asked.enabled
    assert asked.max_drop == MaxDrop(0.2, strict=True, labelled=True)
