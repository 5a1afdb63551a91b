"""Protects spatial attention in INT8 on OpenVINO, which misreads a maximum over channels that it quantises at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.engines.base import BuildOptions
from radixrt.engines.registry import get
from radixrt.export.graph.session import GraphSession
from radixrt.export.spec import Precision


@pytest.mark.parametrize("extreme", ["ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("shape", ["<keepdims=1>(t, axis)", "<keepdims=0>(t, axis)  m = Unsqueeze(n, axis)"])
def test_an_engine_computes_what_its_int8_graph_says(extreme: str, shape: str, tmp_path: Path) -> None:
    named = "n" if "Unsqueeze" in shape else "m"
    text = f"""<ir_version: 9, opset_import: ["" : 18]> g (float[1, 8, 16, 16] x) => (float[1, 4, 16, 16] y)
    <int64[1] axis = {{1}}, float s = {{0.01}}, int8 z = {{0}}, int8[4, 1, 1, 1] w = {{40, -90, 120, 7}},
     float[4] ws = {{0.01, 0.01, 0.01, 0.01}}, int8[4] wz = {{0, 0, 0, 0}}>
    {{ t = Tanh(x)  {named} = {extreme}{shape}  q = QuantizeLinear(m, s, z)  d = DequantizeLinear(q, s, z)
       wd = DequantizeLinear<axis=0>(w, ws, wz)  y = Conv(d, wd) }}"""
    graph = ir.from_onnx_text(text)
    x = {"x": np.random.default_rng(0).normal(size=(1, 8, 16, 16)).astype(np.float32)}
    target = get("openvino")
    engine = target.build_graph(graph, tmp_path, BuildOptions(Precision.INT8, threads=1)).files[0]
    with target.open(engine, threads=1) as session:
        found = session.run(x)["y"]
    exact = GraphSession(graph, optimize=False)(x)["y"]
    # A number half way between two steps may fall either way.
    assert np.abs(found - exact).max() <= 0.013 < np.abs(exact).max() / 50
