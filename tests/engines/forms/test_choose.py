from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from radixrt.engines.base import Target
from radixrt.engines.forms.cache import Answer, FormCache, Question, default_cache
from radixrt.engines.forms.choose import (
    Measurer,
    attention_form,
    chooser_for,
    grouped_conv_chooser,
    measurer_for,
    pool_chooser_for,
    rewrite_options,
)
from radixrt.engines.forms.graphs import grouped_conv_graph, pool_conv_graph, radix_graph
from radixrt.engines.forms.judge import ClockRules, answer_by_clock
from radixrt.engines.registry import get
from radixrt.engines.tensorrt.rtx.plan_cost import Kernel, KernelTensor, PlanCost
from radixrt.engines.tensorrt.rtx.plan_judge import PlanJudge
from radixrt.engines.tensorrt.target import TensorRtTarget
from radixrt.errors import InputError
from radixrt.export.attention.forms import AttentionForm, Combine, Parts
from radixrt.export.passes.conv_shape import DENSE, KEEP, SPLIT, ConvShape, Form, candidates
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.passes.pool_conv import PoolConvShape, PoolForm
from radixrt.export.spec import Precision
from tests.networks.convolutions import run as run_ort

RESNEXT = ConvShape(1, 32, 32, 8, (3, 3), pads=(1, 1, 1, 1), height=8, width=8)
TRAITS = get("onnxruntime").traits
AVD = PoolConvShape(ConvShape(1, 8, 16, 1, (3, 3), stride=(2, 2), pads=(1, 1, 1, 1), height=9, width=9), (2, 2))


class FakeMachine:
    """A clock that moves only when something runs, so that timing is exact and takes no time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def __call__(self) -> float:
        return self.now

    def runs(self, seconds: Mapping[str, Callable[[int], float]]) -> dict[str, Callable[[], object]]:
        def runner(name: str) -> Callable[[], object]:
            def run() -> None:
                self.ran.append(name)
                self.now += seconds[name](len(self.ran))

            return run

        return {name: runner(name) for name in seconds}


def steady(seconds: float) -> Callable[[int], float]:
    return lambda _: seconds


# A clear win must be taken, and the report must hold its size.
def test_the_clock_takes_a_clear_win() -> None:
    machine = FakeMachine()
    answer = answer_by_clock(machine.runs({"keep": steady(0.002), "dense": steady(0.001)}), clock=machine)
    assert answer.form == "dense"
    assert "2.00x as fast as keep" in answer.why


# A difference within noise must not change a graph: 4 % is what caches and threads around a convolution decide.
@pytest.mark.parametrize("other", [0.00192, 0.002, 0.0021])
def test_the_clock_keeps_the_original_within_noise(other: float) -> None:
    machine = FakeMachine()
    assert answer_by_clock(machine.runs({"keep": steady(0.002), "dense": steady(other)}), clock=machine).form == "keep"


# On a busy machine a median that happens to be lower proves nothing; nor may such an answer be kept for later builds.
@pytest.mark.parametrize("seed", range(10))
def test_a_jittery_win_is_not_believed(seed: int) -> None:
    machine = FakeMachine()
    jitter = np.random.default_rng(seed).uniform(0.3, 3.0, 10_000)
    runs = machine.runs({"keep": lambda i: 0.002 * jitter[i], "dense": lambda i: 0.0018 * jitter[i]})
    answer = answer_by_clock(runs, ClockRules(budget_s=0.05), clock=machine)
    assert answer.form == "keep"
    assert not answer.settled


# A machine that slows down halfway slows down everyone: interleaving must cancel it.
def test_drift_cancels() -> None:
    machine = FakeMachine()
    runs = machine.runs({"keep": lambda i: 0.001 * (1 + i / 50), "dense": lambda i: 0.0008 * (1 + i / 50)})
    assert answer_by_clock(runs, ClockRules(budget_s=1.0), clock=machine).form == "dense"


# A hopeless form must not eat the time of the others: 32 convolutions in a row take long.
def test_hopeless_forms_are_dropped_early() -> None:
    machine = FakeMachine()
    answer_by_clock(
        machine.runs({"keep": steady(0.002), "split": steady(0.2), "dense": steady(0.001)}),
        ClockRules(budget_s=1.0),
        clock=machine,
    )
    assert machine.ran.count("split") <= 5
    assert machine.ran.count("dense") > 10


QUESTION = Question(
    kind="grouped-conv",
    shape="3x3",
    forms=("keep", "dense"),
    precision="fp32",
    target="t",
    version="1",
    device="cpu",
)
DENSE_WINS = Answer(form="dense", why="2.00x as fast as keep")


def test_cache_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "forms.json"
    FormCache(path).put(QUESTION, DENSE_WINS)
    assert FormCache(path).get(QUESTION) == DENSE_WINS
    assert [p.name for p in path.parent.iterdir()] == ["forms.json"]


# An answer is true only where it was measured: another version, device, precision or shape is another question.
@pytest.mark.parametrize("field", ["kind", "shape", "precision", "target", "version", "device"])
def test_cache_tells_questions_apart(tmp_path: Path, field: str) -> None:
    cache = FormCache(tmp_path / "forms.json")
    cache.put(QUESTION, DENSE_WINS)
    assert cache.get(QUESTION.model_copy(update={field: "other"})) is None


# A cache is a convenience: whatever is wrong with the file, a build must go on, and mend it.
@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema_version": 99, "entries": []}', '{"entries": [{"x": 1}]}', "\x00\xff"]
)
def test_damaged_cache_counts_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "forms.json"
    path.write_bytes(text.encode("latin-1"))
    cache = FormCache(path)
    assert cache.get(QUESTION) is None
    cache.put(QUESTION, DENSE_WINS)
    assert FormCache(path).get(QUESTION) == DENSE_WINS


# Two builds at once must not throw each other's answers away.
def test_cache_merges_with_what_others_wrote(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    first, second = FormCache(path), FormCache(path)
    other = QUESTION.model_copy(update={"shape": "5x5"})
    first.put(QUESTION, DENSE_WINS)
    second.put(other, DENSE_WINS)
    both = FormCache(path)
    assert both.get(QUESTION) and both.get(other)


def test_unsettled_answers_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "forms.json"
    cache = FormCache(path)
    cache.put(QUESTION, DENSE_WINS.model_copy(update={"settled": False}))
    assert cache.get(QUESTION) is not None
    assert FormCache(path).get(QUESTION) is None


def test_unwritable_cache_does_not_fail_the_build(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = FormCache(blocked / "forms.json")
    cache.put(QUESTION, DENSE_WINS)
    assert cache.get(QUESTION) == DENSE_WINS


def test_default_cache_follows_the_users_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "radixrt" / "forms.json"


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


# What is timed must be what is shipped: candidates of equal value, in the precision asked for.
@pytest.mark.parametrize("form", [KEEP, SPLIT, DENSE, Form("merge", 4)])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8])
def test_candidate_graphs_are_equal(form: Form, precision: Precision) -> None:
    x = np.random.default_rng(0).standard_normal((1, 32, 8, 8)).astype(np.float32)
    traits = replace(TRAITS, full_range_u8=False, zero_points=False)
    want = run_ort(grouped_conv_graph(RESNEXT, KEEP, precision, traits), x)
    model = grouped_conv_graph(RESNEXT, form, precision, traits)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    # In INT8 a value on the edge between two codes may fall either way: one step of the scale.
    np.testing.assert_allclose(run_ort(model, x), want, atol=1e-5 if precision is Precision.FP32 else 0.024, rtol=0)
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph)
    assert (pairs > 0) == (precision is Precision.INT8)


# A form must be timed as the placement will leave it: groups narrower than 16 channels stay in float.
@pytest.mark.parametrize(("form", "quantised"), [(KEEP, False), (Form("merge", 4), True), (DENSE, True)])
def test_only_what_the_placement_quantises_is_measured_in_int8(form: Form, quantised: bool) -> None:
    for target in ("onnxruntime", "tensorrt-rtx"):
        model = grouped_conv_graph(RESNEXT, form, Precision.INT8, get(target).traits)
        (conv,) = (node for node in model.graph if node.op_type == "Conv")
        makers = [value.producer() for value in conv.inputs[:2] if value is not None]
        assert (makers[1] is not None and makers[1].op_type == "DequantizeLinear") == quantised
        assert makers[0] is not None and makers[0].op_type == "DequantizeLinear"  # its neighbours are quantised
        assert model.graph.outputs[0].producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]


def test_pool_candidates_are_equal() -> None:
    x = np.random.default_rng(0).standard_normal((1, 8, 9, 9)).astype(np.float32)
    forms: tuple[PoolForm, ...] = get_args(PoolForm)
    pair, light, single = (pool_conv_graph(AVD, form, Precision.FP32, TRAITS) for form in forms)
    assert [n.op_type for n in pair.graph] == ["AveragePool", "Conv", "Relu"]
    assert [n.op_type for n in light.graph] == ["Conv", "Conv", "Relu"]
    assert [n.op_type for n in single.graph] == ["Conv", "Relu"]
    for other in (light, single):
        np.testing.assert_allclose(run_ort(other, x), run_ort(pair, x), atol=1e-5, rtol=0)


def test_half_precision_graphs_are_half() -> None:
    model = grouped_conv_graph(RESNEXT, SPLIT, Precision.FP16, TRAITS)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert model.graph.inputs[0].dtype == ir.DataType.FLOAT16


def plan(kernels: int, megabytes: float) -> PlanCost:
    tensor = KernelTensor(name="t", dtype="Half", shape=(1,), bytes=int(megabytes * 1e6 / kernels))
    row = Kernel(name="k", kind="kgen", inputs=(tensor,), constants=(), outputs=(), nodes=())
    return PlanCost(rows=(row,) * kernels)


# A plan is judged by both counts: more kernels for the same bytes must lose, fewer bytes for the same kernels must win.
@pytest.mark.parametrize(
    ("original", "other", "wins"),
    [
        ((4, 4.0), (4, 3.0), True),
        ((4, 4.0), (3, 4.0), True),
        ((4, 4.0), (9, 4.0), False),
        ((4, 4.0), (4, 4.0), False),
        ((4, 4.0), (4, 8.0), False),
    ],
)
def test_plan_judge(original: tuple[int, float], other: tuple[int, float], wins: bool) -> None:
    costs = iter([plan(*original), plan(*other)])
    graph = grouped_conv_graph(RESNEXT, KEEP, Precision.FP16, TRAITS)
    answer = PlanJudge(lambda data: next(costs))({"keep": graph, "dense": graph})
    assert answer.form == ("dense" if wins else "keep")
    assert "kernels" in answer.why


def test_plan_judge_skips_what_does_not_compile() -> None:
    answers: list[PlanCost | InputError] = [plan(4, 4.0), InputError("no kernel")]

    def cost(data: bytes) -> PlanCost:
        answer = answers.pop(0)
        if isinstance(answer, InputError):
            raise answer
        return answer

    graph = grouped_conv_graph(RESNEXT, KEEP, Precision.FP16, TRAITS)
    assert PlanJudge(cost)({"keep": graph, "dense": graph}).form == "keep"


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
