"""Protects accuracy recovery: its one session computes what placements do, and what it reports it really bought."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir.passes.common as common
import pytest
from numpy.typing import NDArray

from radixrt.calibration.int8 import outputs_sqnr_db, sqnr_db
from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.recovery.mixed_precision import keep_worst_in_float
from radixrt.calibration.recovery.recover import recover
from radixrt.calibration.recovery.sensitivity import LayerSensitivity, sensitivity
from radixrt.calibration.recovery.session import QuantSession, Variant
from radixrt.calibration.recovery.techniques import SearchProgress, Technique
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.engines.registry import get
from radixrt.errors import InputError
from tests.networks.onnx_text import graph
from tests.networks.residual import images, logits, plain, se_block, split_block

X = images(8)
BLOCKS = {"plain": plain, "se": se_block, "split": split_block}
TENSORRT = PlacementOptions(get("tensorrt").traits)


def answer(session: QuantSession, variant: Variant) -> NDArray[Any]:
    (found,) = session.answers({"input": X}, variant).values()
    return found


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_session_computes_what_the_placement_computes(block: str, target: str) -> None:
    model = BLOCKS[block]()
    table = calibrate(model, [{"input": X}], CalibrationOptions(Method.MSE))
    options = PlacementOptions(get(target).traits, first=Ends.INT8, last=Ends.INT8)
    session = QuantSession(model, options, table)
    exact = logits(model, X)
    placed = logits(place(model, table, options)[0], X, optimize=False)
    assert sqnr_db(exact, answer(session, Variant())) > 90, "everything off is not the float graph"
    noise = sqnr_db(exact, placed)
    assert sqnr_db(placed, answer(session, session.everything(table))) > noise + 20


# Sound and video: a channel's mean is over whatever axes of space there are.
@pytest.mark.parametrize("space", [(32,), (4, 6, 6)])
def test_a_map_of_other_than_two_axes_recovers(space: tuple[int, ...]) -> None:
    sides, taps = (",".join(map(str, numbers)) for numbers in (space, [3] * len(space)))
    model = graph(
        f"net (float[N,3,{sides}] input) => (float[N,8] y) <float[8,3,{taps}] w> {{"
        " c = Conv(input, w) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p) }"
    )
    common.ShapeInferencePass()(model)
    samples = {"input": np.random.default_rng(0).normal(size=(8, 3, *space)).astype(np.float32)}
    options = PlacementOptions(get("onnxruntime").traits, first=Ends.INT8, last=Ends.INT8)
    assert recover(model, calibrate(model, [samples]), samples, options).table is not None


def test_recovery_buys_what_it_says() -> None:
    model = split_block()
    # A range far too small to begin with: the first step must find a better one.
    table = calibrate(model, [{"input": X}])
    table = table.with_amax({"u": table.amax("u") / 8})
    options = TENSORRT
    judges = X[4:]
    exact = logits(model, judges)

    def placed_db(graph: object, ranges: object) -> float:
        placed = logits(place(graph, ranges, options)[0], judges, optimize=False)  # type: ignore[arg-type]
        return outputs_sqnr_db({"y": exact}, {"y": placed}, len(judges))

    seen: list[SearchProgress] = []
    found = recover(model, table, {"input": X}, options, on_progress=seen.append)
    assert found.steps[0].after_db > found.steps[0].before_db + 6
    assert placed_db(found.model, found.table) == pytest.approx(max(s.after_db for s in found.steps), abs=0.7)
    assert placed_db(found.model, found.table) > placed_db(model, table) + 6
    last = [progress for progress in seen if progress.step == Technique.RANGES.value][-1]
    assert last.done == last.total
    assert last.seconds_left == 0
    assert "dB" in found.steps[0].sentence()


def test_bias_correction_restores_the_means() -> None:
    model = plain()
    table = calibrate(model, [{"input": X}], CalibrationOptions(Method.MINMAX))
    options = PlacementOptions(get("tensorrt").traits, first=Ends.INT8, last=Ends.INT8)
    found = recover(model, table, {"input": X}, options)
    session = QuantSession(model, options, table)
    names = [layer.name for layer in session.decision.layers]
    exact = session.channel_means({"input": X}, Variant(), names)
    before = session.channel_means({"input": X}, session.everything(table), names)
    again = QuantSession(found.model, options, found.table)
    after = again.channel_means({"input": X}, again.everything(found.table), names)
    last = names[-1]
    assert np.abs(after[last] - exact[last]).max() <= np.abs(before[last] - exact[last]).max()


def test_recovery_needs_samples() -> None:
    with pytest.raises(InputError, match="needs samples"):
        recover(plain(), calibrate(plain(), [{"input": X}]), {"input": X[:0]}, TENSORRT)


def test_sensitivity_finds_the_layer_with_the_bad_range() -> None:
    model = plain()
    table = calibrate(model, [{"input": X}], CalibrationOptions(Method.MINMAX))
    rows = sensitivity(
        model,
        table.with_amax({"a": table.amax("a") / 50}),
        {"input": X},
        PlacementOptions(get("tensorrt").traits, first=Ends.INT8, last=Ends.INT8),
    )
    assert rows[0].node == "node_b"  # it reads "a"
    assert rows[0].sqnr_db < rows[1].sqnr_db - 6
    assert sum(row.macs_share for row in rows) == pytest.approx(1.0)
    conv = next(row for row in rows if row.node == "node_a_conv")
    assert conv.macs == 16 * 16 * 9 * 16 * 16
    assert [row.sqnr_db for row in rows] == sorted(row.sqnr_db for row in rows)


def fake_rows(count: int) -> tuple[LayerSensitivity, ...]:
    return tuple(LayerSensitivity(f"n{i}", f"m{i}", "Conv", 20.0 + i, 10, 1 / count) for i in range(count))


@pytest.mark.parametrize("needed", [0, 1, 5, 16])
def test_mixed_precision_keeps_no_more_layers_than_the_gate_asks_for(needed: int) -> None:
    found = keep_worst_in_float(fake_rows(16), TENSORRT, lambda options: len(options.exclude) >= needed)
    assert found.passed
    assert found.excluded == tuple(f"m{i}" for i in range(needed))
    assert found.int8_share == pytest.approx(1 - needed / 16)
    assert found.evaluations <= 6


def test_mixed_precision_says_when_it_cannot() -> None:
    found = keep_worst_in_float(fake_rows(4), TENSORRT, lambda options: False)
    assert not found.passed
    assert found.evaluations == 2


def test_work_counts_against_noise() -> None:
    # The second layer is a little less noisy, and saves ten times less: it goes first.
    rows = (
        LayerSensitivity("big", "big", "Conv", 20.0, 1000, 0.9),
        LayerSensitivity("small", "small", "Conv", 22.0, 100, 0.1),
    )
    found = keep_worst_in_float(rows, TENSORRT, lambda options: bool(options.exclude))
    assert found.excluded == ("small",)
