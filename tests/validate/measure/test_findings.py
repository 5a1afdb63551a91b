"""Two swapped classes and a wrong preprocessing are named; noise is not mistaken for either."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from radixrt.export.graph.output_kind import Head
from radixrt.validate.gates import GateLimits
from radixrt.validate.measure.accuracy import accuracy, figures
from radixrt.validate.measure.findings import (
    input_findings,
    layer_findings,
    logit_findings,
    metric_findings,
    precision_findings,
    speed_findings,
)
from radixrt.validate.measure.latency import ELSEWHERE, FLOAT32
from radixrt.validate.schema import Finding, Latency, LatencyMethod, LatencyRow, Quantization
from tests.validate.reports import CLASSES, logits


def texts(findings: Sequence[Finding]) -> list[str]:
    return [finding.text for finding in findings]


def photos(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    smooth = random.normal(size=(4, 3, 1, 1)) + 0.5 * random.normal(size=(4, 3, 8, 8))
    return (smooth + np.array([0.3, 0.0, -0.4])[None, :, None, None]).astype(np.float32)


def test_swapped_classes_are_named() -> None:
    reference, engine, _ = logits(300, 0.1)
    [found] = texts(logit_findings(reference, engine[:, [1, 0, 2, 3]], Head(CLASSES)))
    assert "functional and defective are swapped" in found
    assert logit_findings(reference, engine, Head(CLASSES)) == []


def test_noise_and_noise_alone_is_no_swap() -> None:
    reference, _, _ = logits(300, 0.1)
    assert logit_findings(reference, np.random.default_rng(3).normal(size=reference.shape)) == []


# A thousand classes and a dozen images: some two rise and fall together, and the least rounding tells them apart wrong.
def test_classes_that_go_together_are_no_swap() -> None:
    random = np.random.default_rng(2)  # a seed by which two correlate crosswise better than with themselves
    reference = random.normal(size=(16, 3)) @ random.normal(size=(3, 1000))
    engine = reference + 0.05 * random.normal(size=reference.shape)
    assert logit_findings(reference, engine) == []


def test_overflow_is_named() -> None:
    reference, engine, _ = logits(20, 0.1)
    engine[5] = np.inf
    [found] = texts(logit_findings(reference, engine))
    assert "1 of 20 images" in found


def test_logits_that_say_nothing_are_named() -> None:
    # Both pass every comparison: an engine that returns zeros agrees with them perfectly.
    reference, _, _ = logits(20, 0.1)
    [constant] = texts(logit_findings(np.repeat(reference[:1], 20, axis=0), reference))
    assert "does not depend on the image" in constant
    vanishing = (reference * 1e-42).astype(np.float32)
    [denormal] = texts(logit_findings(vanishing, np.zeros_like(vanishing)))
    assert "denormal" in denormal


def test_wrong_mean_is_named_with_its_shift() -> None:
    images = photos()
    shift = np.array([0.5, 0.25, -0.125], np.float32)[None, :, None, None]
    [found] = texts(input_findings(images, images + shift))
    assert "another mean" in found and "+0.500, +0.250, -0.125" in found and "std" not in found


def test_wrong_std_is_named_with_its_scale() -> None:
    images = photos()
    [found] = texts(input_findings(images, images * 2.0))
    assert "another std" in found and "2.000" in found and "mean" not in found


def test_reversed_channels_are_named() -> None:
    images = photos()
    [found] = texts(input_findings(images, images[:, ::-1]))
    assert "reverse order" in found


def test_another_crop_is_told_from_another_mean() -> None:
    images = photos()
    [found] = texts(input_findings(images, np.roll(images, 2, axis=3)))
    assert "resize and crop" in found
    [found] = texts(input_findings(images, images[:, :, :4, :4]))
    assert "(3, 4, 4)" in found


def test_equal_images_say_nothing() -> None:
    images = photos()
    assert input_findings(images, images + np.float32(1e-5)) == []
    assert layer_findings([]) == []


@pytest.mark.parametrize("shape", [(2, 4), (300, 1)])
def test_too_little_to_correlate_says_nothing(shape: tuple[int, int]) -> None:
    assert logit_findings(np.ones(shape), np.zeros(shape)) == []


def timed(**p50_ms: float) -> Latency:
    rows = [
        LatencyRow(name=name, batch=1, p50_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms, images_per_s=1e3 / ms)
        for name, ms in p50_ms.items()
    ]
    method = LatencyMethod(
        rounds=9,
        warmup_rounds=3,
        threads=1,
        interleaved=True,
        includes_transfers=True,
        baseline="PyTorch",
        load_before=0.0,
        load_after=0.0,
    )
    return Latency(rows=rows, speedup_ci95=(1.0, 9.0), speedup_p50=4.0, method=method)


@pytest.mark.parametrize(("float_ms", "said"), [(1.5, True), (2.05, True), (3.0, False)])
def test_int8_that_is_no_quicker_than_fp32_is_said(float_ms: float, said: bool) -> None:
    found = speed_findings(timed(**{"engine": 2.0, FLOAT32: float_ms, "PyTorch": 8.0}))
    assert ["PREC=fp32" in sentence for sentence in texts(found)] == [True] * said


@pytest.mark.parametrize(("theirs", "offered"), [(1.6, True), (1.7, False)])
def test_a_quicker_runtime_is_offered_with_its_time(theirs: float, offered: bool) -> None:
    found = speed_findings(timed(**{"engine": 2.0, f"{ELSEWHERE}openvino": theirs, "PyTorch": 8.0}))
    assert [one.severity for one in found] == ["remark"] * offered
    assert all("openvino" in text and "1.6 ms" in text and "TARGET=fastest" in text for text in texts(found))


def test_nothing_is_said_of_an_fp32_engine_that_was_not_timed() -> None:
    assert speed_findings(timed(engine=2.0, PyTorch=1.0)) == []


def test_times_that_were_not_steady_are_a_doubt() -> None:
    latency = timed(engine=2.0, PyTorch=1.0).model_copy(update={"unsteady": ["others were busy"]})
    [found] = speed_findings(latency)
    assert found.severity == "doubt" and "others were busy" in found.text


@pytest.mark.parametrize(("points", "limit", "said"), [(0.0, 5.0, False), (-1.0, 1.0, True), (-90.0, 1.0, False)])
def test_too_few_images_to_tell_is_a_doubt(points: float, limit: float, said: bool) -> None:
    images = 100
    reference = np.eye(2)[np.zeros(images, int)]
    engine = reference.copy()
    engine[: round(-points)] = engine[: round(-points), ::-1]
    right = accuracy(reference, engine, [0] * images, max_drop_points=limit)
    found = metric_findings(figures(right), GateLimits(max_drop=limit))
    assert [f.severity for f in found] == ["doubt"] * said


def test_an_int8_engine_without_a_layer_in_int8_is_a_doubt() -> None:
    [found] = precision_findings("int8", Quantization(quantized=0, kept_float=["fc: the last layer"]))
    assert (
        found.severity == "doubt" and found.text.startswith("0 layers are in INT8") and "the last layer" in found.text
    )
    assert precision_findings("int8", Quantization(quantized=1)) == precision_findings("fp32", None) == []
