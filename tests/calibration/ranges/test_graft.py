"""Protects that graphs calibrated in one pass get what each would get alone, and that a name proves nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate, calibrate_together
from radixrt.calibration.ranges.graft import graft
from radixrt.engines.registry import get
from radixrt.export.graph.facts import infer
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.spec import Precision
from tests.networks.residual import images, se_block, split_block

TARGETS = ("onnxruntime", "openvino", "tensorrt-rtx")


def forms(model: ir.Model) -> list[ir.Model]:
    """A network as each target takes it."""
    options = (
        RewriteOptions(attention=get(name).attention_form(), target_passes=get(name).passes(Precision.INT8))
        for name in TARGETS
    )
    return [rewrite(model.clone(), how)[0] for how in options]


@pytest.mark.parametrize("network", [split_block, se_block])
def test_a_pass_for_all_gives_each_the_integers_that_it_gets_alone(network: Callable[[], ir.Model]) -> None:
    models, batches = forms(network()), [{"input": images(6)}]
    for name, model, found in zip(TARGETS, models, calibrate_together(models, batches), strict=True):
        alone = calibrate(model, batches)
        assert found is not None
        assert found.model_sha256 == alone.model_sha256
        assert [t.name for t in found.tensors] == [t.name for t in alone.tensors]
        # Sums in another order: the last bits of a float32.
        wanted = [t.amax for t in alone.tensors]
        np.testing.assert_allclose([t.amax for t in found.tensors], wanted, rtol=1e-5, err_msg=name)
        options = PlacementOptions(get(name).traits)
        ours, theirs = (integers(place(model, table, options)[0]) for table in (found, alone))
        assert ours == theirs


def integers(model: ir.Model) -> dict[str, bytes]:
    kinds = (ir.DataType.INT8, ir.DataType.UINT8)
    values = model.graph.initializers.values()
    return {v.name or "": v.const_value.tobytes() for v in values if v.const_value and v.dtype in kinds}


def test_only_what_is_not_the_same_is_computed_beside_it() -> None:
    first, _, third = (infer(model) for model in forms(split_block()))
    before = len(first.graph)
    (places,) = graft(first, [third], {"input": images(2)})
    assert places is not None
    assert 0 < len(first.graph) - before < len(third.graph) / 4
    shared = [name for name, value in places.items() if value.name == name]
    assert len(shared) > len(places) / 2


def test_a_namesake_with_other_values_is_not_taken_for_the_same() -> None:
    model, other = split_block(), split_block()
    weight = other.graph.initializers["stem_conv.weight"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
    batches = [{"input": images(4)}]
    _, found = calibrate_together([model, other], batches)
    assert found is not None
    np.testing.assert_allclose(
        [t.amax for t in found.tensors], [t.amax for t in calibrate(other, batches).tensors], rtol=1e-5
    )
