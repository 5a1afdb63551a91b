"""Protects `radixrt calibrate`: its table is of the very file, and goes to TensorRT's text cache and back."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from radixrt.calibration.ranges.table import read_table
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs


@pytest.mark.slow
def test_ranges_go_to_a_cache_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    graph = tmp_path / "tiny.onnx"
    tiny_network(graph, "batch")
    words = ("calibrate", graph, "--data", write_photographs(tmp_path / "data"), "--input-size", "3,32,32")
    cache, table, again = (tmp_path / name for name in ("trt.cache", "table.json", "again.json"))
    done = radixrt(*words, "-o", table, "--to-cache", cache, "--tensorrt-version", "8.6.1")
    assert done.code == 0, done.err
    lines = cache.read_text().splitlines()
    assert lines[0] == "TRT-8601-EntropyCalibration2"
    name, _, scale = lines[1].partition(": ")
    # Half of the first range, as somebody else's calibrator might have it: one less in the exponent.
    cache.write_text("\n".join((lines[0], f"{name}: {int(scale, 16) - (1 << 23):08x}")) + "\n")
    assert radixrt(*words, "-o", again, "--from-cache", cache).code == 0
    assert read_table(again).amax(name) == pytest.approx(read_table(table).amax(name) / 2)

    cache.write_text("something else\n")
    refused = radixrt(*words, "-o", again, "--from-cache", cache)
    assert refused.code == 2 and "no TensorRT calibration cache" in refused.sentence


@pytest.mark.slow
def test_quantize_takes_the_table_of_a_file_that_nobody_simplified(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    graph, table = tmp_path / "tiny.onnx", tmp_path / "table.json"
    tiny_network(graph, "batch")
    model = onnx.load(graph)
    first = model.graph.node[0]
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [first.input[0]], ["same"], name="same"))
    first.input[0] = "same"
    onnx.save(model, graph)

    data = write_photographs(tmp_path / "data")
    assert radixrt("calibrate", graph, "--data", data, "--input-size", "3,32,32", "-o", table).code == 0
    done = radixrt("quantize", graph, "--table", table, "-o", tmp_path / "int8.onnx")
    assert done.code == 0, done.err
