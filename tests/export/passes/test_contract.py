"""What the runner holds every pass to: nothing of a refused rewrite is left, and who breaks something is named."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from radixrt.engines.tensorrt.rtx.join_shortcut import JoinShortcut
from radixrt.engines.tensorrt.rtx.space_to_depth import SpaceToDepth
from radixrt.errors import InputError
from radixrt.export.attention.rewrite import LowerAttention
from radixrt.export.graph.equivalence import Proof
from radixrt.export.passes.base import Pass, stray_reader
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.passes.report import PassResult
from radixrt.export.passes.squeeze_early import SqueezeEarly
from tests.engines.tensorrt.rtx.test_join_shortcut import tail
from tests.engines.tensorrt.rtx.test_space_to_depth import stem
from tests.export.passes.test_golden import read
from tests.export.passes.test_squeeze_early import bottleneck_tail
from tests.networks.convolutions import conv_model


def readers(model: ir.Model) -> dict[str, list[tuple[str | None, int]]]:
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    return {str(v.name): sorted((n.name, i) for n, i in v.uses()) for v in values}


def missed(*_: object) -> Proof:
    return Proof(1.0, "a proof that is made to miss")


# A reader that is left behind stands in no graph, but is counted: later passes would decline in silence.
@pytest.mark.parametrize(
    ("pass_", "model"),
    [
        pytest.param(LowerAttention(prove=missed), read("se"), id="attention"),
        pytest.param(LowerAttention(prove=missed), read("split_radix2"), id="split attention"),
        pytest.param(SqueezeEarly(prove=missed), bottleneck_tail(), id="squeeze early"),
        pytest.param(SpaceToDepth(prove=missed), conv_model(stem()), id="space to depth"),
        pytest.param(JoinShortcut(prove=missed), tail(), id="join shortcut"),
    ],
)
def test_a_refused_rewrite_leaves_every_tensor_with_the_readers_it_had(pass_: Pass, model: ir.Model) -> None:
    before = readers(model)
    result = pass_(model)
    assert [refusal.reason.split(": ")[-1] for refusal in result.refused] == ["a proof that is made to miss"]
    assert not result.modified
    assert readers(model) == before


class _Forgetful(Pass):
    def call(self, model: ir.Model) -> PassResult:
        ir.node("Neg", [model.graph.inputs[0]], name="phantom")
        return PassResult(model, modified=False)


class _Broken(Pass):
    def call(self, model: ir.Model) -> PassResult:
        raise ZeroDivisionError("of nothing")


class _Refusing(Pass):
    def call(self, model: ir.Model) -> PassResult:
        raise InputError("the weight holds NaN")


def test_a_pass_that_leaves_a_reader_behind_is_named() -> None:
    model = conv_model(stem())
    assert stray_reader(model.graph) is None
    with pytest.raises(ir.passes.PassError, match=r"the pass _Forgetful failed: .* left the Neg node 'phantom' behind"):
        rewrite(model, RewriteOptions(target_passes=(_Forgetful(),)))


def test_a_pass_that_raises_is_named_and_a_users_error_stays_what_it_is() -> None:
    with pytest.raises(ir.passes.PassError, match="the pass _Broken failed: of nothing"):
        rewrite(conv_model(stem()), RewriteOptions(target_passes=(_Broken(),)))
    with pytest.raises(InputError, match="the weight holds NaN"):
        rewrite(conv_model(stem()), RewriteOptions(target_passes=(_Refusing(),)))
