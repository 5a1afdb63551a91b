"""A file of any opset compiles: behind the reader every graph is of opset 18 or later, with all that is added to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.build.deploy import typed_graph
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.forms.choose import rewrite_options
from radixrt.engines.registry import get
from radixrt.export.passes.pipeline import rewrite
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.simplify import simplify
from radixrt.export.spec import Precision
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import images, outputs, se_net


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 15, 17, 18, 20, 22])
def test_what_the_compiler_adds_is_of_the_opset_of_the_graph(opset: int, tmp_path: Path) -> None:
    file = se_net(opset)
    expected = outputs(file, images())
    graph = simplify(read_onnx(save(file, tmp_path)))
    assert graph.opset_imports[""] == max(opset, 18)
    for target, precision, share in (
        ("onnxruntime", Precision.INT8, 0.1),
        ("tensorrt", Precision.INT8, 0.1),
        ("tensorrt-rtx", Precision.FP16, 0.01),
    ):
        model, report = rewrite(graph.clone(), rewrite_options(get(target), precision, "keep"))
        assert len(report.attention_blocks) == 1
        table = calibrate(model, [{"x": images(4)}]) if precision is Precision.INT8 else None
        typed = typed_graph(model, precision, target, table)
        assert typed.placement is None or typed.placement.quantized
        proto = ir.to_proto(typed.model)
        onnx.checker.check_model(proto, full_check=True)
        error = np.abs(outputs(proto, images()) - expected).max()
        assert error <= share * np.abs(expected).max()
