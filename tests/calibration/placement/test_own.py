"""A quantised file's own scales and integers stand in the graph that is made of it, where their tensors still are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.calibration.int8 import Grid
from radixrt.calibration.placement.options import PlacementReport
from radixrt.calibration.placement.own import own_pairs, place_own
from radixrt.engines.registry import get
from radixrt.errors import InputError
from radixrt.export.graph.constants import array_of
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.plain import in_float32
from radixrt.export.reader.simplify import simplify
from tests.export.reader.test_onnx_file import save
from tests.networks.onnx_files import images, outputs, quantised, se_net


def placed(file: onnx.ModelProto, folder: Path, target: str = "onnxruntime") -> tuple[ir.Model, PlacementReport, str]:
    """What becomes of a quantised file."""
    path = save(file, folder)
    graph = read_onnx(path)
    before = simplify(in_float32(graph, path, lambda text: None, keep_pairs=True))
    model, _ = rewrite(before.clone(), RewriteOptions())
    return place_own(model, before, own_pairs(graph), {"x": images(1)}, get(target).traits)


def pairs(model: ir.Model) -> dict[str, tuple[float, int]]:
    """Scale and zero point, as a number of u8, of each tensor that has a pair."""
    found = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            scale, zero = (array_of(value) for value in node.inputs[1:] if value is not None)
            found[node.inputs[0].name or ""] = (float(scale), int(zero) + (128 if zero.dtype == np.int8 else 0))  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("activations", ["QUInt8", "QInt8"])
def test_scales_and_integers_are_the_files(form: str, activations: str, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    file = quantised(se_net(), tmp_path, form=form, activation_type=QuantType[activations])
    own = pairs(read_onnx(save(file, tmp_path)))
    model, report, said = placed(file, tmp_path)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    kept = pairs(model)
    assert {"x", "excited"} <= {
        name.removesuffix(".range").removesuffix("_QuantizeLinear_Output") for name in kept
    } | set(kept)
    assert set(kept.values()) <= set(own.values())
    assert len(report.quantized) >= 2 and f"{len(kept)} of {len(own)} on activations" in said
    weights = {
        t.name: onnx.numpy_helper.to_array(t) for t in file.graph.initializer if t.data_type == onnx.TensorProto.INT8
    }
    held = [value.const_value.numpy() for value in model.graph.initializers.values() if value.const_value is not None]
    for name in ("w0_quantized", "w1_quantized"):
        assert any(a.dtype == np.int8 and np.array_equal(a, weights[name]) for a in held), name
    expected = outputs(file, images())
    assert np.abs(outputs(ir.to_proto(model), images()) - expected).max() <= 0.05 * np.abs(expected).max()


def test_the_target_that_takes_no_zero_points_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="around another number than 0, which TensorRT does not take"):
        placed(quantised(se_net(), tmp_path), tmp_path, "tensorrt")


def test_symmetric_pairs_are_for_any_target(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    choices = {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}}
    model, report, _ = placed(quantised(se_net(), tmp_path, **choices), tmp_path, "tensorrt")
    assert report.quantized and {zero for _, zero in pairs(model).values()} == {128}


def test_a_tensor_that_something_reads_without_its_pair_stays_so(tmp_path: Path) -> None:
    file = quantised(se_net(), tmp_path)
    gate = next(node for node in file.graph.node if node.op_type == "Mul")
    restored = next(name for name in gate.input if name.startswith("r0"))
    gate.input[list(gate.input).index(restored)] = "c0" if "c0" in {n.output[0] for n in file.graph.node} else "r0"
    own = own_pairs(read_onnx(save(file, tmp_path)))
    assert any(gate.name in pair.bare for pair in own.tensors.values())
    assert all(isinstance(pair.grid, Grid) for pair in own.tensors.values())
