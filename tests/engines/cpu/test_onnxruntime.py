from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from radixrt.engines import registry
from radixrt.engines.base import BuildOptions
from radixrt.errors import InputError
from radixrt.export.graph.session import open_session
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.spec import Precision
from radixrt.prepare.reference import onnx_reference
from tests.engines.contract import EngineContract
from tests.fuzz.onnx_fields import varied
from tests.networks import gated


class TestOnnxRuntime(EngineContract):
    name = "onnxruntime"


# ONNX Runtime switches the thread of a process's first session to flush-to-zero: the ranges of a calibration in the
# same process would depend on whether an engine was opened before.
def test_an_open_engine_leaves_the_caller_its_denormals(tmp_path: Path) -> None:
    deploy = gated.save(tmp_path, "fp32")
    program = """
import sys
from pathlib import Path
import numpy as np
from radixrt.engines import registry
from tests.networks import gated
with registry.get("onnxruntime").open(Path(sys.argv[1]), threads=1) as session:
    session.run({"input": gated.images(1)})
assert (np.full(8, 1e-40, np.float32) * np.float32(1)).max() > 0, "denormals are flushed"
"""
    subprocess.run([sys.executable, "-c", program, str(deploy)], check=True, timeout=120)


# The engine must open on another machine and another version: no operator in it may be ONNX Runtime's own.
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_the_engine_is_standard_onnx(tmp_path: Path, kind: str) -> None:
    deploy = gated.save(tmp_path, kind)
    engine = registry.get("onnxruntime").build(deploy, tmp_path, BuildOptions(Precision(kind))).files[0]
    model = onnx.load(engine)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


# x86 kernels take unsigned activations; a signed one falls to a slow path.
def test_int8_activations_are_unsigned_with_zero_point_128(tmp_path: Path) -> None:
    deploy = gated.save(tmp_path, "int8")
    engine = registry.get("onnxruntime").build(deploy, tmp_path, BuildOptions(Precision.INT8)).files[0]
    model = onnx.load(engine)
    zero_points = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    (quantiser,) = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    point = zero_points[quantiser.input[2]]
    assert (point.dtype, int(point)) == ("uint8", 128)


# The promise of a half-size file, and of a sentence about what is computed in which type.
def test_fp16_keeps_half_weights_and_says_that_it_computes_in_fp32(tmp_path: Path) -> None:
    deploy = gated.save(tmp_path, "fp16")
    built = registry.get("onnxruntime").build(deploy, tmp_path, BuildOptions(Precision.FP16))
    weights = {w.name: w.data_type for w in onnx.load(built.files[0]).graph.initializer}
    assert weights["w"] == onnx.TensorProto.FLOAT16
    assert "FP32" in built.notes[0]


def test_no_session_is_opened_with_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime as ort

    from radixrt.export.graph.session import open_session

    told: list[str] = []
    opened = ort.InferenceSession
    monkeypatch.setattr(ort, "disable_telemetry_events", lambda: told.append("off"))
    monkeypatch.setattr(ort, "InferenceSession", lambda *a, **k: (told.append("open"), opened(*a, **k))[1])
    network = gated.save(tmp_path)
    open_session(onnx.load(network), optimize=True)
    registry.get("onnxruntime").open(network).close()
    assert told[0] == told[2] == "off" and told.count("open") == 2 and told[-1] == "open"


def test_a_file_that_the_runtimes_own_optimiser_breaks_is_opened_and_said(tmp_path: Path) -> None:
    # Opset 21, pairs of u8 one behind the other; a bundle must not hold it, an original may.
    odd = varied(random.Random(20633))
    try:
        open_session(odd, optimize=True)
    except Exception as error:
        assert "output_dtype" in str(error)
    else:
        pytest.skip("this version of ONNX Runtime takes the file as it is")
    (tmp_path / "odd.onnx").write_bytes(odd.SerializeToString())
    target = registry.get("onnxruntime")
    with target.open(tmp_path / "odd.onnx") as session:
        assert "own optimiser breaks odd.onnx" in session.remark
        (spec,) = session.inputs
        assert np.isfinite(session.run({spec.name: np.zeros(spec.shape, spec.dtype)})["y"]).all()
    with pytest.raises(InputError, match="cannot be opened by ONNX Runtime"):
        target.build(tmp_path / "odd.onnx", tmp_path, BuildOptions(Precision.FP32))
    reference = onnx_reference(read_onnx(tmp_path / "odd.onnx"))
    with reference.timed(1) as run:
        run({spec.name: np.zeros((1, *spec.shape[1:]), spec.dtype)})
    assert "own optimiser breaks" in reference.remark
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="cannot be opened by ONNX Runtime"):
        target.open(tmp_path / "bad.onnx")
