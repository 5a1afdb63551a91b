"""Engines that are really bad, and one that another tool made: judged by the same code, with the culprits named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.engines.registry import get
from radixrt.validate.gates import judge_gates, missed, read_gates
from radixrt.validate.measure.drift import drift
from radixrt.validate.measure.findings import layer_findings
from radixrt.validate.measure.parity import parity
from tests.networks.chain import network


def images(scale: float = 1.0, seed: int = 1, batches: int = 8) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"input": (scale * random.normal(size=(16, 3, 16, 16))).astype(np.float32)} for _ in range(batches)]


def answers(model: ir.Model | Path, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    source = str(model) if isinstance(model, Path) else ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], batch)[0] for batch in batches])


def test_ranges_from_noise_fail_their_gate_and_the_layers_are_named() -> None:
    # Calibrated by min-max on noise a twentieth as strong as the images: every range is far too narrow.
    reference, test = network(), images()
    table = calibrate(reference, images(scale=0.05, seed=2), CalibrationOptions(method=Method.MINMAX), threads=1)
    bad, _ = place(reference, table, PlacementOptions(get("tensorrt").traits, first=Ends.INT8))
    expected = answers(reference, test)
    found = answers(bad, test)
    assert "min_cosine is 0" in missed(judge_gates(read_gates(min_cosine=0.99), parity=parity(expected, found)))
    sentences = " ".join(found.text for found in layer_findings(drift(reference, bad, test[:2])))
    assert "stage.0" in sentences and "clipping" in sentences and "too narrow" in sentences


def test_a_graph_that_another_tool_quantised_is_judged(tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    reference, test = network(), images()

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._batches: Iterator[dict[str, np.ndarray]] = iter(images(seed=3))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    ir.save(reference, tmp_path / "float.onnx")
    quantization.quantize_static(
        tmp_path / "float.onnx",
        tmp_path / "foreign.onnx",
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )
    close = parity(answers(reference, test), answers(tmp_path / "foreign.onnx", test))
    assert 0.95 < close.cosine_min < 1.0
    rows = drift(reference, ir.load(tmp_path / "foreign.onnx"), test[:2])
    convs = [row for row in rows if row.op_type == "Conv"]
    assert len(convs) == 5
    for row in convs:
        assert 15 < row.sqnr_db < 60
        assert row.rounding_share + row.clipping_share == pytest.approx(1.0), "its u8 pairs are read as well"
