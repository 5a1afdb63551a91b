from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from radixrt.engines.base import Target
from radixrt.engines.forms.cache import Answer, FormCache
from radixrt.engines.forms.choose import (
    Measurer,
    attention_form,
    chooser_for,
    grouped_conv_chooser,
    measurer_for,
    pool_chooser_for,
    rewrite_options,
)
from radixrt.engines.forms.graphs import grouped_conv_graph, radix_graph
from radixrt.engines.registry import get
from radixrt.engines.tensorrt.target import TensorRtTarget
from radixrt.errors import InputError
from radixrt.export.attention.forms import AttentionForm, Combine, Parts
from radixrt.export.passes.conv_shape import DENSE, KEEP, SPLIT, ConvShape, Form, candidates
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.spec import Precision
from tests.engines.forms.shapes import AVD, RESNEXT, TRAITS
from tests.networks.convolutions import run as run_ort


def measurer(judge: Callable[[Mapping[str, ir.Model]], Answer], path: Path | None = None) -> Measurer:
    return Measurer(judge, FormCache(path), get("onnxruntime"), Precision.FP32, "1", "cpu")


def test_the_same_shape_with_other_candidates_is_another_question(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def judge(graphs: Mapping[str, ir.Model]) -> Answer:
        asked.append(list(graphs))
        return Answer(form=asked[-1][0], why="the original stays")

    forms = measurer(judge, tmp_path / "forms.json")
    make = {name: lambda: radix_graph(16, 8, Precision.FP32) for name in ("reduce", "slice")}
    assert forms.choose("radix-combine", "x", make).form == "reduce"
    assert forms.choose("radix-combine", "x", dict(reversed(make.items()))).form == "slice"
    assert asked == [["reduce", "slice"], ["slice", "reduce"]]


# Networks repeat a shape a dozen times: it must be measured once, and never again while the cache holds.
def test_each_shape_is_measured_once(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def judge(graphs: Mapping[str, ir.Model]) -> Answer:
        asked.append(list(graphs))
        return Answer(form="dense", why="because")

    path = tmp_path / "forms.json"
    choose = grouped_conv_chooser(measurer(judge, path))
    assert [choose(RESNEXT) for _ in range(3)] == [(DENSE, "onnxruntime: because")] * 3
    assert grouped_conv_chooser(measurer(judge, path))(RESNEXT)[0] == DENSE
    assert len(asked) == 1
    assert asked[0][0] == "keep"
    assert set(asked[0]) == {str(f) for f in candidates(RESNEXT)}


# Padding changes what is computed, so it belongs to the question even where the output's size happens to agree.
def test_every_figure_of_the_shape_is_part_of_the_question() -> None:
    seen: list[int] = []

    def judge(graphs: Mapping[str, ir.Model]) -> Answer:
        seen.append(len(graphs))
        return Answer(form="keep", why="")

    choose = grouped_conv_chooser(measurer(judge))
    for pads in [(1, 1, 1, 1), (2, 0, 2, 0), (0, 2, 0, 2)]:
        choose(ConvShape(1, 32, 32, 8, (3, 3), pads=pads, height=8, width=8))
    assert len(seen) == 3


# A form that this version no longer offers, read from an old cache, must be measured anew.
def test_a_cached_form_that_is_no_candidate_is_ignored(tmp_path: Path) -> None:
    forms = iter(["merge x999", "dense"])
    choose = grouped_conv_chooser(measurer(lambda graphs: Answer(form="dense", why="measured"), tmp_path / "f.json"))
    owner = measurer(lambda graphs: Answer(form=next(forms), why="old"), tmp_path / "f.json")
    owner.choose(
        "grouped-conv",
        f"{RESNEXT} pads {RESNEXT.pads}",
        {"merge x999": lambda: grouped_conv_graph(RESNEXT, KEEP, Precision.FP32, TRAITS)},
    )
    assert choose(RESNEXT)[0] == DENSE


# An open image size has nothing to run: the convolution stays.
def test_open_size_is_kept() -> None:
    def judge(graphs: Mapping[str, ir.Model]) -> Answer:
        raise AssertionError("asked")

    form, why = grouped_conv_chooser(measurer(judge))(ConvShape(1, 32, 32, 8, (3, 3)))
    assert form == KEEP
    assert "open" in why


@pytest.mark.parametrize(("policy", "form"), [("keep", KEEP), ("split", SPLIT), ("dense", DENSE), ("merge", DENSE)])
def test_fixed_policies(policy: str, form: Form, tmp_path: Path) -> None:
    assert chooser_for(policy, get("onnxruntime"), Precision.FP32, tmp_path / "f.json")(RESNEXT)[0] == form


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(InputError, match=r"fastest.*keep, split, merge, dense, auto"):
        chooser_for("fastest", get("onnxruntime"), Precision.FP32)


# Where a target does not run here, the written table decides and the report says so.
def test_rules_decide_where_nothing_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from radixrt.engines.base import Capability

    nowhere = Capability("tensorrt", False, False, reason="no GPU answers")
    monkeypatch.setattr(TensorRtTarget, "capability", lambda self: nowhere)
    assert measurer_for(get("tensorrt"), Precision.INT8) == "no GPU answers"
    form, why = chooser_for("auto", get("tensorrt"), Precision.INT8)(
        ConvShape(1, 128, 128, 32, (3, 3), pads=(1, 1, 1, 1), height=56, width=56)
    )
    assert form == Form("merge", 8)
    assert "rule" in why and "no GPU answers" in why
    assert chooser_for("auto", get("tensorrt"), Precision.INT8)(ConvShape(1, 64, 128, 2, (3, 3)))[0] == KEEP
    assert pool_chooser_for(get("tensorrt"), Precision.INT8)(AVD)[0] == "pool"


# The real thing, once: a shape measured on ONNX Runtime, the answer on disk, the second chooser answering from there.
def test_auto_measures_on_onnxruntime(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    form, why = chooser_for("auto", get("onnxruntime"), Precision.FP32, path)(RESNEXT)
    assert form in candidates(RESNEXT)
    assert why.startswith("onnxruntime: ")
    if path.exists():  # a machine that was too busy leaves no answer
        entry = json.loads(path.read_text())["entries"][0]
        assert entry["question"]["target"] == "onnxruntime"
        assert entry["question"]["device"]
        assert chooser_for("auto", get("onnxruntime"), Precision.FP32, path)(RESNEXT) == (form, why)


# The plan's cost stands in for the clock: dense multiplies eight times as much for the same kernels and more bytes.
def test_auto_compiles_for_tensorrt_rtx(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    _, why = chooser_for("auto", get("tensorrt-rtx"), Precision.FP16, tmp_path / "forms.json")(RESNEXT)
    assert "kernels" in why and "MB" in why


# The block that stands for all must be recognised, else every form is measured on the very same graph.
@pytest.mark.parametrize(
    "form", [AttentionForm(Combine.SCALE, Parts.REDUCE), AttentionForm(Combine.LERP, Parts.SPLIT)], ids=str
)
def test_the_measured_block_is_lowered_in_its_form(form: AttentionForm) -> None:
    graph = radix_graph(16, 8, Precision.FP32)
    x = np.random.default_rng(0).standard_normal((1, 16, 8, 8)).astype(np.float32)
    want = run_ort(graph, x)
    model, report = rewrite(graph, RewriteOptions(attention=form))
    assert [block.kind for block in report.attention_blocks] == ["split"]
    assert form.combine.value in report.attention_blocks[0].lowering
    np.testing.assert_allclose(run_ort(model, x), want, rtol=1e-4, atol=1e-5)


def test_attention_keeps_its_usual_form_where_nothing_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from radixrt.engines.base import Capability

    monkeypatch.setattr(TensorRtTarget, "capability", lambda self: Capability("tensorrt", False, False, reason="none"))
    form, why = attention_form(get("tensorrt"), Precision.INT8)
    assert (form, why) == (TensorRtTarget().attention_form(), "rule: the usual form for tensorrt (none)")
    options = rewrite_options(get("tensorrt"), Precision.INT8, "merge")
    assert options.attention == TensorRtTarget().attention_form()
    assert options.choose_pool is None
    assert options.choose_form is not None


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_on_cpus_the_combination_is_measured_between_int8_convolutions(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, ir.Model] = {}

    def judge(candidates: Mapping[str, ir.Model]) -> Answer:
        seen.update(candidates)
        return Answer(form="lerp, split", why="it was asked to")

    def measurer_of(asked: Target, precision: Precision, *_: object, **__: object) -> Measurer:
        return Measurer(judge, FormCache(None), asked, precision, "1", "here")

    monkeypatch.setattr("radixrt.engines.forms.choose.measurer_for", measurer_of)
    form, why = attention_form(get(target), Precision.INT8)
    assert (form, why) == (AttentionForm(Combine.LERP, Parts.SPLIT), f"{target}: it was asked to")
    assert len(seen) > 3
    for model in seen.values():
        wide = [node for node in model.graph if node.op_type == "Conv" and node.outputs[0].shape[2] != 1]  # type: ignore[index]
        weights = [node.inputs[1].producer() for node in wide]  # type: ignore[union-attr]
        assert len(wide) == 2 and all(maker is not None and maker.op_type == "DequantizeLinear" for maker in weights)
