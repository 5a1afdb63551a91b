"""Rewrites a graph for a target: the one entry to the compiler's passes, and the list of them in order.

``rewrite`` works on any ONNX graph and imports no PyTorch. Every pass has the same shape: it takes a model and the
options, changes the model in place, and returns whether it changed and what it has to report (:class:`PassResult`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.export.attention.rewrite import AttentionOptions, lower_attention
from radixrt.export.passes.conv_shape import ChooseForm
from radixrt.export.passes.fold_batchnorm import fold_batchnorm
from radixrt.export.passes.fold_shapes import fold_shapes
from radixrt.engines.forms.rules import chooser_by_rules, chooser_fixed
from radixrt.export.passes.grouped_conv import apply_forms
from radixrt.engines.tensorrt.rtx_passes.join_shortcut import join_shortcut
from radixrt.export.passes.pass_result import PassResult
from radixrt.export.passes.pool_conv import ChoosePoolForm, apply_pool_forms
from radixrt.engines.cpu.relu_behind_pool import relu_behind_pool
from radixrt.export.passes.report import RewriteReport
from radixrt.engines.tensorrt.rtx_passes.space_to_depth import fold_first_convolution
from radixrt.export.passes.squeeze_early import squeeze_early
from radixrt.engines.tensorrt.rtx_passes.window_pool import pool_by_window
from radixrt.export.spec import Precision

GroupedConv = Literal["keep", "split", "merge", "dense", "auto"]


@dataclass(frozen=True)
class RewriteOptions:
    """What to rewrite, and for whom.

    Attributes:
        target: the engine the graph is for; chooses between forms that are equal in value.
        attention: lower attention blocks (forms, where not the target's own, inside).
        grouped_conv: the form of grouped convolutions; ``auto`` without ``choose_form`` reads the written rule table.
        choose_form: measures what ``auto`` chooses; given by whoever has the target's clock.
        choose_pool: chooses between average pooling with a 1x1 convolution and one strided convolution; None keeps.
        precision: of the deploy graph that comes of it, for the rule table.
        batch: images per run that forms are chosen for, where the graph's batch is dynamic.
    """

    target: str = "onnxruntime"
    attention: AttentionOptions | None = field(default_factory=AttentionOptions)
    grouped_conv: GroupedConv | str = "keep"
    choose_form: ChooseForm | None = None
    choose_pool: ChoosePoolForm | None = None
    precision: Precision = Precision.FP32
    batch: int = 1


Pass = Callable[[ir.Model, RewriteOptions], PassResult]


def pipeline() -> tuple[Pass, ...]:
    """The passes in order."""
    return (
        _fold_shapes,
        # Exporters without shapes (TorchScript) get them here: some forms want to know H and W.
        _infer_shapes,
        # Before recognition, so that a convolution and its normalisation are one feature map.
        _fold_batchnorm,
        _attention,
        # After attention: it reads the pooling and the FC that the lowering wrote.
        _squeeze_early,
        # After the squeeze has found its place, which needs the shapes of the nodes written above.
        _infer_shapes,
        # The forms read shapes, and a pool that becomes a convolution may be a grouped one's neighbour.
        _pool_conv,
        _grouped_conv,
        # After the choice about pooling before a 1x1 convolution, which may settle the pairs that this looks for.
        _join_shortcut,
        _fold_image,
        # After every pass that looks for a GlobalAveragePool.
        _target_spelling,
        # Last: the nodes that the passes above left without a reader go here, whoever made them.
        _tidy,
    )


def rewrite(model: ir.Model, options: RewriteOptions) -> tuple[ir.Model, RewriteReport]:
    """Rewrites ``model`` in place for ``options.target``.

    Args:
        model: any ONNX graph, opset 13 or later.
        options: what to rewrite.

    Returns:
        The same model, and what was done to it: nothing is skipped silently.
    """
    report = RewriteReport(nodes_before=len(model.graph))
    common.TopologicalSortPass()(model)
    for run in pipeline():
        result = run(model, options)
        report = RewriteReport(
            attention_blocks=[*report.attention_blocks, *result.attention_blocks],
            refused=[*report.refused, *result.refused],
            grouped_convs=[*report.grouped_convs, *result.grouped_convs],
            nodes_before=report.nodes_before,
            max_abs_err=max(report.max_abs_err, result.max_abs_err),
        )
    return model, report.model_copy(update={"nodes_after": len(model.graph)})


def _fold_shapes(model: ir.Model, options: RewriteOptions) -> PassResult:
    return fold_shapes(model)


def _infer_shapes(model: ir.Model, options: RewriteOptions) -> PassResult:
    result = common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return PassResult(changed=bool(result.modified))


def _fold_batchnorm(model: ir.Model, options: RewriteOptions) -> PassResult:
    return fold_batchnorm(model)


def _attention(model: ir.Model, options: RewriteOptions) -> PassResult:
    return PassResult() if options.attention is None else lower_attention(model, options.attention, options.target)


def _pool_conv(model: ir.Model, options: RewriteOptions) -> PassResult:
    if options.choose_pool is None:
        return PassResult()
    _, _, refused, changed = apply_pool_forms(model, options.choose_pool, batch=options.batch)
    return PassResult(changed=changed, refused=tuple(refused))


def _grouped_conv(model: ir.Model, options: RewriteOptions) -> PassResult:
    choose = options.choose_form
    if choose is None and options.grouped_conv == "auto":
        choose = chooser_by_rules(options.target, options.precision, "nothing that measures was given")
    elif choose is None:
        choose = chooser_fixed(options.grouped_conv)
    _, records, changed = apply_forms(model, choose, batch=options.batch)
    return PassResult(changed=changed, grouped_convs=tuple(records))


def _squeeze_early(model: ir.Model, options: RewriteOptions) -> PassResult:
    return squeeze_early(model)


def _join_shortcut(model: ir.Model, options: RewriteOptions) -> PassResult:
    return join_shortcut(model) if _generates_code(options) else PassResult()


def _fold_image(model: ir.Model, options: RewriteOptions) -> PassResult:
    return fold_first_convolution(model) if _generates_code(options) else PassResult()


def _generates_code(options: RewriteOptions) -> bool:
    # In INT8 each generated sum would get a scale of its own, where a pooling and a convolution have one.
    return options.target == "tensorrt-rtx" and options.precision is not Precision.INT8


def _target_spelling(model: ir.Model, options: RewriteOptions) -> PassResult:
    if options.target == "tensorrt-rtx":
        return pool_by_window(model)
    if options.target == "onnxruntime" and options.precision is Precision.INT8:
        return relu_behind_pool(model)
    return PassResult()


def _tidy(model: ir.Model, options: RewriteOptions) -> PassResult:
    """Removes what nothing reads, and writes down the shape of every tensor for the stages that follow."""
    changed = bool(common.RemoveUnusedNodesPass()(model).modified)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return PassResult(changed=changed)
