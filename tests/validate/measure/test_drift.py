"""A defect planted in one layer is found and named; a sound INT8 graph is accused of nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.registry import get
from radixrt.errors import InputError
from radixrt.export.passes.float16 import to_float16
from radixrt.validate.measure.drift import drift
from radixrt.validate.measure.findings import layer_findings
from radixrt.validate.measure.layer_match import match_layers
from radixrt.validate.schema import DriftRow
from tests.networks.chain import CONVS, network


@dataclass(frozen=True)
class Case:
    reference: ir.Model
    int8: ir.Model
    batches: list[dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def case() -> Case:
    random = np.random.default_rng(1)
    batches = [{"input": random.normal(size=(4, 3, 16, 16)).astype(np.float32)} for _ in range(3)]
    reference = network()
    table = calibrate(reference, batches, threads=1)
    int8, _ = place(reference, table, PlacementOptions(get("tensorrt").traits, first=Ends.INT8))
    return Case(reference, int8, batches)


def test_an_overflow_of_fp16_is_named_where_it_begins(case: Case) -> None:
    # The products and sums of its errors are not numbers, which once ended a build with a traceback.
    reference = tampered(case.reference, "w1", 1e5)
    rows = drift(reference, to_float16(reference).model, case.batches)
    first = next(row for row in rows if row.nonfinite)
    assert named(first).endswith("stage.2")
    [found] = layer_findings(rows)
    sentence = found.text
    assert "stage.2" in sentence and "65504" in sentence


def test_large_numbers_have_a_drift_as_well(case: Case) -> None:
    # Their squares leave float32 and not float64.
    reference = tampered(case.reference, "w4", 1e24)
    rows = drift(reference, reference, case.batches)
    assert all(row.gain == 1.0 and row.sqnr_db == 200.0 for row in rows)


def test_a_reference_that_overflows_by_itself_is_refused(case: Case) -> None:
    reference = tampered(tampered(case.reference, "w1", 1e30), "w2", 1e30)
    with pytest.raises(InputError, match=r"stage\.4 is NaN or infinite in float32"):
        drift(reference, reference, case.batches)


def tampered(model: ir.Model, value: str, change: float) -> ir.Model:
    """The graph with one initializer multiplied."""
    copy = model.clone()
    found = next(v for name, v in copy.graph.initializers.items() if name == value)
    assert found.const_value is not None
    found.const_value = ir.tensor((found.const_value.numpy() * change).astype(np.float32), name=value)
    return copy


def named(row: DriftRow) -> str:
    return row.name.split(" ")[0]


def layer(index: int) -> str:
    return f"stage.{2 * index}"


def test_every_layer_has_a_row_by_its_module_in_order(case: Case) -> None:
    rows = drift(case.reference, case.int8, case.batches)
    assert [named(row) for row in rows] == [layer(i) for i in range(CONVS)] + ["stage.10", "stage.13"]
    assert [row.depth for row in rows] == list(range(7))
    for row in rows[:CONVS]:
        assert 20 < row.sqnr_db < 60, row
        assert row.rounding_share + row.clipping_share == pytest.approx(1.0), row
        assert row.own_sqnr_db > row.sqnr_db - 3, "a layer cannot be much better than what it reads"
        assert row.gain == pytest.approx(1.0, abs=0.05)


def test_a_sound_graph_is_accused_of_nothing(case: Case) -> None:
    assert layer_findings(drift(case.reference, case.int8, case.batches)) == []


def test_the_reference_against_itself_is_equal(case: Case) -> None:
    rows = drift(case.reference, case.reference, case.batches)
    assert all(row.sqnr_db == 200.0 and row.gain == pytest.approx(1.0) for row in rows)
    assert not any(row.first_drop for row in rows)


def test_one_layer_with_a_doubled_weight_scale_is_named(case: Case) -> None:
    rows = drift(case.reference, tampered(case.int8, "w2_scale", 2.0), case.batches)
    [first] = [row for row in rows if row.first_drop]
    assert named(first) == layer(2)
    assert first.gain == pytest.approx(2.0, abs=0.15)
    found = [finding.text for finding in layer_findings(rows)]
    assert layer(2) in found[0] and "times the reference's" in found[0]
    assert "look at its weights" in found[1]


@pytest.mark.parametrize(("change", "cause"), [(1 / 16, "clipping"), (64.0, "rounding")])
def test_a_wrong_activation_range_is_named_with_its_cause(case: Case, change: float, cause: str) -> None:
    # The pair behind r2 feeds the fourth convolution: too small a scale clips, too large a one rounds.
    rows = drift(case.reference, tampered(case.int8, "r2_scale", change), case.batches)
    [first] = [row for row in rows if row.first_drop]
    assert named(first) == layer(3)
    share = first.clipping_share if cause == "clipping" else first.rounding_share
    assert share > 0.9
    assert any(layer(3) in found.text and cause in found.text for found in layer_findings(rows))


def test_shares_follow_the_quantiser(case: Case) -> None:
    # Computed here from the definition, for one pair: error outside the range is clipping, inside it rounding.
    tight = tampered(case.int8, "r2_scale", 0.85)
    row = drift(case.reference, tight, case.batches)[3]
    scale = float(tight.graph.initializers["r2_scale"].const_value.numpy())  # type: ignore[union-attr]
    import onnxruntime as ort

    proto = ir.to_proto(tight)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("r2", onnx.TensorProto.FLOAT, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rounding = clipping = 0.0
    for batch in case.batches:
        [r2] = session.run(["r2"], batch)
        steps = np.rint(r2.astype(np.float64) / scale)
        error = np.square(np.clip(steps, -128, 127) * scale - r2)
        clipping += error[steps > 127].sum()
        rounding += error[steps <= 127].sum()
    assert row.clipping_share == pytest.approx(clipping / (clipping + rounding), rel=1e-3)
    assert 0.01 < row.clipping_share < 0.99, "the case must have some of both"


def test_graphs_that_share_no_layer_and_no_images_are_refused(case: Case) -> None:
    other = ir.from_proto(
        onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["" : 19]> o (float[1, 3, 16, 16] input) => (float[1, 3, 16, 16] y) '
            "{ y = Relu (input) }"
        )
    )
    with pytest.raises(InputError, match="no layer of the deploy graph"):
        match_layers(case.reference, other)
    # A network without layers has none to lose.
    assert match_layers(other, other) == []
    with pytest.raises(InputError, match="no images"):
        drift(case.reference, case.int8, [])


def test_neither_graph_is_changed(case: Case) -> None:
    before = [v.name for v in case.int8.graph.outputs], len(case.int8.graph)
    drift(case.reference, case.int8, case.batches[:1])
    assert ([v.name for v in case.int8.graph.outputs], len(case.int8.graph)) == before
