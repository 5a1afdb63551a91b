"""Protects a sweep from end to end: one row that fails ends alone, and the same command does no finished row again."""

from __future__ import annotations

from pathlib import Path

import pytest

from radixrt.engines.bundle.folder import Bundle
from radixrt.fleet.schema import Sweep
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import tiny_network
from tests.photographs import write_photographs


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_fails_alone_and_the_rest_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "photographs").mkdir()
    write_photographs(tmp_path / "photographs")
    tiny_network(tmp_path / "tiny.onnx", "batch")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'model = ["tiny.onnx", "broken.onnx"]\ndata = "photographs"\nprecision = "fp32"\ntarget = "onnxruntime"\n'
        "latency_rounds = 3\n[preprocess]\ninput_size = [3, 32, 32]\n[gates]\nmax_drop = 50\n"
    )
    output = tmp_path / "sweep"
    done = radixrt("sweep", recipe, "--output", output, "--jobs", "1")
    assert done.code == 3 and "1 of 2 rows failed" in done.sentence, done.err
    rows = {row.name: row for row in Sweep.read(output).rows}
    assert "is not an ONNX file" in rows["broken-fp32-onnxruntime"].reason
    assert rows["tiny-fp32-onnxruntime"].state == "done" and rows["tiny-fp32-onnxruntime"].figures is not None
    bundle = Bundle.read(output / "tiny-fp32-onnxruntime")
    assert 'model = "' + str(tmp_path / "tiny.onnx") in (bundle.path / "recipe.toml").read_text()
    # With the broken one mended away, nothing is left to do: no process starts, and no row is made anew.
    again = radixrt("sweep", recipe, "--output", output, "--exclude", f"model={tmp_path / 'broken.onnx'}")
    assert again.code == 0, again.err
    assert Bundle.read(bundle.path).manifest_bytes == bundle.manifest_bytes
    assert (output / "index.html").exists() and (output / "junit.xml").exists()
