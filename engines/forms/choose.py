"""The choice between equal forms, made by measuring each distinct shape on the target.

How a form is judged is the target's own business (:meth:`radixrt.engines.base.Target.form_judge`): by the clock where
it runs here, by what a compiled plan does where that can be read without a device. Where neither can be had, the
target's written rule decides (:mod:`radixrt.engines.forms.rules`). Answers are cached by shape, precision, target,
version and device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import onnx_ir as ir

from radixrt.calibration.placement.options import Ends, PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.collect import calibrate
from radixrt.engines.base import Target
from radixrt.engines.forms.cache import Answer, FormCache, Question, default_cache
from radixrt.engines.forms.graphs import grouped_conv_graph, light_graph, pool_conv_graph, radix_graph
from radixrt.engines.forms.judge import Judge
from radixrt.engines.forms.rules import chooser_by_rule, chooser_fixed
from radixrt.errors import InputError
from radixrt.export.attention.forms import AttentionForm, Combine, Parts
from radixrt.export.passes.conv_shape import KEEP, SPLIT, ChooseForm, ConvShape, Form, candidates
from radixrt.export.passes.light_layers import ChooseLight, LightForm, LightShape
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.passes.pool_conv import ChoosePoolForm, PoolConvShape, PoolForm
from radixrt.export.spec import Precision

POLICIES = ("keep", "split", "merge", "dense", "auto")
# One dense convolution per group is never worth weighing beyond this many: each is a kernel of its own.
_MAX_SPLIT = 8
# The combination of radix branches, weighed on one block of ResNeSt-50.
_CHANNELS, _SIDE = 128, 28
_ATTENTION_FORMS = (
    AttentionForm(Combine.SCALE, Parts.REDUCE),
    AttentionForm(Combine.SCALE, Parts.SLICE),
    AttentionForm(Combine.BLEND, Parts.SLICE),
    AttentionForm(Combine.LERP, Parts.SLICE),
    AttentionForm(Combine.LERP, Parts.SPLIT),
)


@dataclass(frozen=True)
class Measurer:
    """Answers questions about forms for one target, precision and device; asks the judge only what the cache lacks.

    Attributes:
        judge: compares candidate graphs.
        cache: earlier answers.
        target: the target.
        precision: that candidate graphs are made in.
        version: of the target's library.
        device: in words.
    """

    judge: Judge
    cache: FormCache
    target: Target
    precision: Precision
    version: str
    device: str

    def choose(self, kind: str, shape: str, forms: Mapping[str, Callable[[], ir.Model]]) -> Answer:
        """Returns the best form of one shape.

        Args:
            kind: what is chosen, such as ``grouped-conv``.
            shape: the shape in words, with every figure that may change the answer.
            forms: the candidates, each a maker of its graph; the first is the original, kept unless another wins.
        """
        question = Question(
            kind=kind,
            shape=shape,
            forms=tuple(forms),
            precision=self.precision.value,
            target=self.target.name,
            version=self.version,
            device=self.device,
        )
        known = self.cache.get(question)
        if known is not None and known.form in forms:
            return known
        answer = self.judge({name: make() for name, make in forms.items()})
        self.cache.put(question, answer)
        return answer


def measurer_for(
    target: Target, precision: Precision, cache: Path | None = None, *, threads: int = 0
) -> Measurer | str:
    """Returns what measures forms for a target, or the reason why nothing can be measured.

    Args:
        target: the target.
        precision: of the deploy graph.
        cache: the JSON file of earlier answers; None takes the one in the user's cache folder.
        threads: that the engine will run with; 0 is the target's own choice.
    """
    effective = target.computes_in(precision)
    judge = target.form_judge(effective, threads)
    if isinstance(judge, str):
        return judge
    answers = FormCache(cache if cache is not None else default_cache())
    version = target.capability().version
    return Measurer(
        judge=judge.judge, cache=answers, target=target, precision=effective, version=version, device=judge.device
    )


def check_policy(policy: str) -> None:
    """Refuses a ``--grouped-conv`` that means nothing.

    Raises:
        InputError: no such policy.
    """
    if policy not in POLICIES:
        raise InputError(f"unknown --grouped-conv {policy!r}: choose one of {', '.join(POLICIES)}")


def chooser_for(
    policy: str, target: Target, precision: Precision, cache: Path | None = None, *, threads: int = 0
) -> ChooseForm:
    """Returns what decides a grouped convolution's form: the meaning of ``--grouped-conv``.

    Args:
        policy: ``keep``, ``split``, ``merge``, ``dense`` (that form everywhere) or ``auto`` (measured on the target).
        target: the target.
        precision: of the deploy graph.
        cache: the JSON file of earlier answers; None takes the one in the user's cache folder.
        threads: that the engine will run with; 0 is the target's own choice.

    Raises:
        InputError: no such policy.
    """
    check_policy(policy)
    if policy != "auto":
        return chooser_fixed(policy)
    measurer = measurer_for(target, precision, cache, threads=threads)
    if isinstance(measurer, str):
        return chooser_by_rule(target.group_rules.get(precision), target.name, precision, measurer)
    return grouped_conv_chooser(measurer)


def grouped_conv_chooser(measurer: Measurer) -> ChooseForm:
    """Returns a chooser that measures each distinct shape once."""

    def choose(shape: ConvShape) -> tuple[Form, str]:
        if shape.output_size is None:
            return KEEP, "the image size is open, so nothing could be measured"
        forms = {str(f): f for f in candidates(shape) if f != SPLIT or shape.groups <= _MAX_SPLIT}
        how = (measurer.precision, measurer.target.traits)
        makers = {name: _maker(grouped_conv_graph, shape, form, *how) for name, form in forms.items()}
        answer = measurer.choose("grouped-conv", str(shape) + f" pads {shape.pads}", makers)
        return forms[answer.form], f"{measurer.target.name}: {answer.why}"

    return choose


def pool_chooser_for(
    target: Target, precision: Precision, cache: Path | None = None, *, threads: int = 0
) -> ChoosePoolForm:
    """Returns what decides how average pooling before a 1x1 convolution is written.

    Where nothing can be measured the pair stays: one convolution multiplies as often as the window has pixels. A
    depthwise one is asked for where the target runs what lies between INT8 layers in integers.
    """
    measurer = measurer_for(target, precision, cache, threads=threads)
    integers = precision is Precision.INT8 and target.traits.int8_between
    forms: dict[str, PoolForm] = {form: form for form in get_args(PoolForm) if form != "depthwise" or integers}

    def choose(shape: PoolConvShape) -> tuple[PoolForm, str]:
        if isinstance(measurer, str):
            return "pool", f"rule: one convolution multiplies more ({measurer})"
        if shape.conv.height is None or shape.conv.width is None:
            return "pool", "the image size is open, so nothing could be measured"
        how = (measurer.precision, measurer.target.traits)
        makers = {name: _maker(pool_conv_graph, shape, name, *how) for name in forms}
        answer = measurer.choose("pool-conv", f"{shape} pads {shape.conv.pads} / {shape.pool_stride}", makers)
        return forms[answer.form], f"{measurer.target.name}: {answer.why}"

    return choose


def light_chooser_for(
    target: Target, precision: Precision, cache: Path | None = None, *, threads: int = 0
) -> ChooseLight | None:
    """Returns what decides whether layers that hardly multiply run in INT8; None where the target leaves them in float.

    Where nothing can be measured they run in INT8: in float, each would leave the integers for one layer alone.
    """
    if precision is not Precision.INT8 or not target.traits.int8_between:
        return None
    measurer = measurer_for(target, precision, cache, threads=threads)

    def choose(shape: LightShape) -> tuple[LightForm, str]:
        if isinstance(measurer, str):
            return "int8", f"rule: float between INT8 layers costs two conversions ({measurer})"
        if shape.conv.output_size is None:
            return "int8", "rule: the image size is open, so nothing could be measured"
        forms: dict[str, LightForm] = {form: form for form in shape.forms}
        makers = {name: _maker(light_graph, shape, form, target) for name, form in forms.items()}
        answer = measurer.choose(shape.kind, str(shape), makers)
        return forms[answer.form], f"{target.name}: {answer.why}"

    return choose


def attention_form(
    target: Target, precision: Precision, cache: Path | None = None, *, threads: int = 0
) -> tuple[AttentionForm, str]:
    """Returns how the branches of split attention are best combined on a target, and why.

    The forms slice and add, or reshape and reduce.

    One block of ResNeSt-50's second stage stands for all: the forms differ in how often they pass over the feature map,
    and that order is the same at every size. In INT8 the combination stays in float, but the convolutions around it
    lay their maps out otherwise, so on CPUs the block is measured as it is placed.
    """
    measured = Precision.FP32 if precision is Precision.INT8 and not target.traits.cpu else precision
    measurer = measurer_for(target, measured, cache, threads=threads)
    usual = target.attention_form()
    if precision is Precision.INT8 and target.traits.int8_between:
        # A product and a sum are computed in integers, a difference is not.
        usual = replace(usual, combine=Combine.SCALE, parts=Parts.SLICE)
    if isinstance(measurer, str):
        return usual, f"rule: the usual form for {target.name} ({measurer})"
    # How branches of their own maps are pooled is the target's business: this block has one map.
    asked = (usual, *(replace(form, squeeze=usual.squeeze) for form in _ATTENTION_FORMS))
    forms = {str(form): form for form in asked}
    makers = {name: _maker(_lowered, target, form, measurer.precision) for name, form in forms.items()}
    answer = measurer.choose("radix-combine", f"radix 2, {_CHANNELS} channels at {_SIDE}x{_SIDE}", makers)
    return forms[answer.form], f"{target.name}: {answer.why}"


def _lowered(target: Target, form: AttentionForm, precision: Precision) -> ir.Model:
    graph = radix_graph(_CHANNELS, _SIDE, precision)
    model, _ = rewrite(graph, RewriteOptions(attention=form, target_passes=target.passes(precision)))
    if precision is not Precision.INT8:
        return model
    maps = np.random.default_rng(0).standard_normal((1, _CHANNELS, _SIDE, _SIDE)).astype(np.float32)
    options = PlacementOptions(target.traits, first=Ends.INT8, last=Ends.INT8)
    return place(model, calibrate(model, [{graph.graph.inputs[0].name or "": maps}]), options)[0]


def rewrite_options(
    target: Target,
    precision: Precision,
    grouped_conv: str = "auto",
    cache: Path | None = None,
    *,
    batch: int = 1,
    threads: int = 0,
) -> RewriteOptions:
    """Returns the rewriter's options with the target's measurements behind them.

    Args:
        target: the target.
        precision: of the deploy graph.
        grouped_conv: the user's ``--grouped-conv``; ``auto`` also lets the target decide about pooling before a 1x1
            convolution. How radix branches are combined is always measured.
        cache: the JSON file of earlier answers; None takes the one in the user's cache folder.
        batch: images per run that forms are chosen for, where the graph's batch is dynamic.
        threads: that the engine will run with; 0 is the target's own choice.

    Raises:
        InputError: no such policy.
    """
    form, why = attention_form(target, precision, cache, threads=threads)
    return RewriteOptions(
        attention=form,
        attention_why=why,
        choose_form=chooser_for(grouped_conv, target, precision, cache, threads=threads),
        choose_pool=pool_chooser_for(target, precision, cache, threads=threads) if grouped_conv == "auto" else None,
        choose_light=light_chooser_for(target, precision, cache, threads=threads),
        target_passes=target.passes(precision),
        batch=batch,
    )


def _maker(make: Callable[..., ir.Model], *arguments: object) -> Callable[[], ir.Model]:
    return lambda: make(*arguments)
